"""What a fit of the estimator prints while it runs."""

from __future__ import annotations

from gmm_dask.events import Event, IterationFinished, Notify, StageFinished, silent


def progress_printer(verbose: int, verbose_interval: int) -> Notify:
    """Return a listener that prints what scikit-learn's ``verbose`` asks for.

    Parameters
    ----------
    verbose
        0: nothing; 1: a line for each stage and every ``verbose_interval`` iterations; 2: for
        every iteration.
    verbose_interval
        Iterations between two lines.
    """
    if not verbose:
        return silent
    interval = 1 if verbose > 1 else verbose_interval

    def notify(event: Event) -> None:
        if isinstance(event, IterationFinished) and event.iteration % interval == 0:
            print(
                f"  Iteration {event.iteration}\t log-likelihood {event.log_likelihood:.5f}"
                f"\t change {event.change:.5f}\t {event.seconds:.3f} s"
            )
        elif isinstance(event, StageFinished):
            print(f"{event.stage}: {event.detail}, {event.seconds:.3f} s")

    return notify
