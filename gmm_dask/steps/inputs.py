"""The first steps of every run: inspect the input, refuse what cannot work, open a scanner."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import numpy as np

from gmm_dask.addresses import ObjectAddress, place_of
from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.scan import Executor, Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import ClusterKind, RunConfig, ThreadsCluster
from gmm_dask.errors import ConfigError, TooFewRowsError
from gmm_dask.events import Notify
from gmm_dask.mixture.initialization import check_start
from gmm_dask.mixture.spec import MixtureSpec, Start
from gmm_dask.steps.filtering import choose_present, plan_fit, plan_prediction
from gmm_dask.steps.unit_keeping import keeps_units
from gmm_dask.storage.files.choice import check_output
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.input.bad_files import BadFile, describe
from gmm_dask.storage.input.overlap import refuse_overlap
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.input.reader import parquet_chunks

logger = logging.getLogger("gmm_dask")


def inspect_input(
    run: RunConfig,
    for_fit: bool = True,
    selects: bool = False,
    as_of: datetime | None = None,
    bad: tuple[BadFile, ...] = (),
) -> InputPlan:
    """Make the input plan from the footers, and refuse early what cannot work; reads no row.

    Whether outputs can be written is checked without creating them, so a refused run leaves
    nothing behind.

    Parameters
    ----------
    for_fit
        Whether a model will be fitted and stored. A prediction accepts any number of rows, does
        not weigh them by their age, only reads models, and has a filter of its own
        (``predict.filter``).
    selects
        Whether ``[select]`` is to choose the number of components and the covariance type.
    as_of
        What the run calls now; by default `choose_present` says.
    bad
        Files of which a scan of this run has found that they cannot be used.

    Raises
    ------
    ConfigError
        An output lies in the input, the filter or ``fit.*_init`` cannot be used,
        ``predict.cluster`` is more than ``model.n_components``, or the run file does not say which
        mixtures are wanted.
    InputError
        The input cannot be used, or has fewer rows than components.
    StorageError
        An output cannot be written.
    """
    present = as_of or choose_present(run, for_fit, bad)
    plan = plan_fit(run, present, bad) if for_fit else plan_prediction(run, present, bad)
    if not {*plan.skipped} <= {*bad}:  # else this run has said so before
        logger.warning("%s", describe(plan.skipped))
    if plan.unsettled:
        logger.info(
            "%d file(s) written less than %s ago are left for a later run",
            len(plan.unsettled),
            run.input.settled_for,
        )
    for output in (run.output.models, run.output.predictions):
        if output is not None:
            refuse_overlap(output, run.input.path, plan)
    if run.output.predictions is not None:
        places = PredictionPlaces.of(run.output.predictions)
        places.current_run()  # raises if not ours
        # On a store everything lies below the output, and a right may end there.
        out = places.out
        check_output(out if isinstance(out, ObjectAddress) else out.parent)
    if for_fit:
        k, key = _fewest_components(run, len(plan.names), selects)
        if plan.rows < k:
            raise TooFewRowsError(
                f"{run.input.path}: {plan.rows:,} "
                f"{'row is' if plan.rows == 1 else 'rows are'} too few for {key} = {k}; "
                "fit fewer components or give more rows"
            )
        check_output(place_of(run.output.models) / run.output.name)
    return plan


def _fewest_components(run: RunConfig, d: int, selects: bool) -> tuple[int, str]:
    """Check the mixtures that a run file asks for; return the fewest components, and their key."""
    if not selects:
        spec = mixture_spec(run)
        check_start(spec, d)
        if run.predict.cluster > spec.n_components:
            raise ConfigError(
                f"predict.cluster = {run.predict.cluster}: a cluster has one component or more, "
                f"and model.n_components is {spec.n_components}; ask for fewer clusters"
            )
        return spec.n_components, "model.n_components"
    if run.select is None:
        raise ConfigError(
            "section [select] is missing; say what to choose from: [select] n_components = [1, 12]"
        )
    for key in ("weights_init", "means_init", "precisions_init"):
        if getattr(run.fit, key) is not None:
            raise ConfigError(f"fit.{key} belongs to one number of components; leave it out")
    return min(run.select.cells).n_components, "select.n_components"


def mixture_spec(run: RunConfig) -> MixtureSpec:
    """Return the mixture that a run file asks for.

    Raises
    ------
    ConfigError
        A ``fit.*_init`` is not an array of numbers, or the number of components is not given.
    """
    model = run.model
    if model.n_components is None:
        raise ConfigError(
            "key model.n_components is missing; give it, or let `gmm-dask select` choose it"
        )

    def read_array(key: str) -> FloatArray | None:
        values = getattr(run.fit, key)
        if values is None:
            return None
        try:
            return np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"fit.{key} is not an array of numbers ({error}); "
                "give lists of one length, nested as the array's shape"
            ) from error

    start = Start(
        run.fit.init_params,
        read_array("weights_init"),
        read_array("means_init"),
        read_array("precisions_init"),
    )
    return MixtureSpec(model.n_components, model.covariance_type, model.reg_covar, start)


@contextmanager
def open_scanner(
    run: RunConfig, plan: InputPlan, cluster: ClusterKind, notify: Notify
) -> Iterator[Scanner]:
    """Open a scanner over the features of a plan, for a fit; it caches rows that fit in memory.

    Where sums of units are kept, its chunks do not cross files.
    """
    with (
        open_executor(cluster) as executor,
        Scanner(parquet_chunks(plan, split_files=keeps_units(run)), executor, notify) as scanner,
    ):
        yield scanner


@contextmanager
def open_executor(cluster: ClusterKind) -> Iterator[Executor]:
    """Open the executor that a cluster file asks for, and close it at the end."""
    if isinstance(cluster, ThreadsCluster):
        threads = Threads(cluster.threads, no_progress=cluster.deadlines.no_progress)
        try:
            yield threads
        finally:
            threads.close()
    else:
        # Imported here: it takes half a second that a run on threads need not spend.
        from gmm_dask.chunked.cluster import open_executor as open_workers

        with open_workers(cluster) as executor:
            yield executor
