"""The extent of a search: its starts, its rounds, and the rows on which finalists come to rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gmm_dask.mixture.clustering import MANY_FEATURES
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.moves import MoveEffort, effort_of_moves
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.starts import MANY, TURNS

#: Iterations after which a run that cannot win any more is given up.
PATIENCE = 4
#: Multiplications of the first round at the most, about ten seconds of a core: with hundreds of
#: features fewer runs begin, rather than on fewer rows than they have coordinates for.
MOST_MULTIPLICATIONS = 200_000_000_000
#: The same from `MANY_FEATURES` on for covariances that are matrices, and for all starts together:
#: beyond it a search on principal components says where to begin.
MOST_MATRIX_MULTIPLICATIONS = 50_000_000_000
#: Starts, and rows of each component, where features are many and covariances are no matrices.
MANY_FEATURES_STARTS, COMPONENT_ROWS = 6, 256
#: Rows on which finalists come to rest, first on few and then on more.
FINAL_ROWS = (16_384, 50_000)


@dataclass(frozen=True)
class Round:
    """A round of the search: some iterations on some rows, after which the best runs remain.

    The best run of each kind of start is among them, because a run that ends higher can lag behind
    at first.

    Attributes
    ----------
    rows
        Rows of the sample that it uses.
    iterations
        EM iterations of each run.
    keep
        Runs that remain.
    """

    rows: int
    iterations: int
    keep: int


@dataclass(frozen=True)
class SearchEffort:
    """The extent of a search.

    Attributes
    ----------
    starts
        EM runs that begin.
    rounds
        The rounds in which they are thinned out.
    finalists
        Runs that remain after the rounds.
    final_rows
        Rows on which the finalists come to rest, one number after the other.
    final_tol, final_iterations
        Their tolerance (nats per row) and largest number of iterations, each time.
    moves
        The moves of those that come to rest.
    rival_iterations
        Iterations of a further start before it competes.
    scouted
        Whether a search on principal components takes the place of starts, rounds and moves
        (`gmm_dask.mixture.scouting`), where the caller left the choice of the start to us.
    """

    starts: int
    rounds: tuple[Round, ...]
    finalists: int
    final_rows: tuple[int, ...]
    final_tol: float
    final_iterations: int
    moves: MoveEffort
    rival_iterations: int = 16
    scouted: bool = False

    @property
    def runs(self) -> int:
        """The number of EM runs of all rounds and of the finalists together."""
        if self.scouted:
            return self.finalists
        return self.starts + sum(round_.keep for round_ in self.rounds[:-1]) + self.finalists


def effort_for(m: int, d: int, spec: MixtureSpec, keep: int, whole: bool = False) -> SearchEffort:
    """Choose the effort for a sample of m rows, d features and ``keep`` mixtures.

    With many components most starts miss some; then moves gain more than further starts do.
    On 2,048 rows the best of many starts are among the first half; fewer tell less of mixtures
    that overlap heavily (benchmarks/RESULTS.md). With fewer than about ten for each
    coordinate of a mean, components collapse in short runs; of many features without correlations,
    some hundred for each component suffice. Where the sample holds all rows (``whole``), finalists
    end on all of them.
    """
    least, remaining = 10 * spec.n_components * d, max(len(TURNS), keep)
    matrices = spec.covariance_type in ("full", "tied")
    if d >= MANY_FEATURES and not matrices:
        least = COMPONENT_ROWS * spec.n_components
    stages = ((2_048, max(8, remaining)), (4_096, max(5, remaining)), (8_192, remaining))
    covariance = COVARIANCE_TYPES[spec.covariance_type]
    moves = effort_of_moves(covariance)
    if covariance.by_component:  # a shared covariance is mended slowly, and promises little
        moves = replace(moves, patience=PATIENCE)
    many = spec.n_components >= MANY
    if many:
        moves = replace(moves, moves=2 * moves.moves)
    rounds = tuple(Round(min(max(rows, least), m), 6, kept) for rows, kept in stages)
    starts = _affordable_starts(rounds[0], d, spec, remaining)
    if starts == remaining:  # nothing is to be thinned out
        rounds = rounds[-1:]
    most = max(12 if many else 16, keep)
    if d >= MANY_FEATURES and not matrices:
        most = max(MANY_FEATURES_STARTS, keep)
        rounds = tuple(replace(round_, keep=remaining) for round_ in rounds[:2])
    scouted = matrices and d >= MANY_FEATURES and spec.start.free
    scouted = scouted and spec.start.init_params == "kmeans"
    if most * _multiplications(rounds[0], d, spec) <= MOST_MATRIX_MULTIPLICATIONS:
        scouted = False
    final_rows = final_rows_of(m, whole)
    if scouted and not whole:
        final_rows = (min(m, max(FINAL_ROWS[0], least)),)
    return SearchEffort(
        starts=min(most, starts),
        rounds=rounds,
        finalists=keep + 1 if scouted else max(2, keep),
        final_rows=final_rows,
        final_tol=1e-4,
        final_iterations=200,
        moves=moves,
        scouted=scouted,
    )


def _affordable_starts(round_: Round, d: int, spec: MixtureSpec, least: int) -> int:
    """Return how many runs can begin with a round, no fewer than ``least``."""
    return max(least, MOST_MULTIPLICATIONS // _multiplications(round_, d, spec))


def _multiplications(round_: Round, d: int, spec: MixtureSpec) -> int:
    """Return the multiplications of a run in a round."""
    k = spec.n_components
    by_row = {"full": k * d * d, "tied": d * d + k * d}.get(spec.covariance_type, k * d)
    return round_.rows * by_row * round_.iterations


def final_rows_of(m: int, whole: bool = False) -> tuple[int, ...]:
    """Return the rows of a sample of m on which finalists come to rest, ascending."""
    few, many = FINAL_ROWS
    most = m if whole else min(m, many)
    return (most,) if most <= 2 * few else (few, most)
