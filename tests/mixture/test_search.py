"""The search for a start: its result, what the result depends on, and moves out of bad optima."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture as Reference
from threadpoolctl import threadpool_info

from benchmarks.sets import LADDER, EmbeddingKind, iris
from gmm_dask import GaussianMixture
from gmm_dask.errors import NumericalError
from gmm_dask.mixture import effort as effort_module
from gmm_dask.mixture import search as search_module
from gmm_dask.mixture.cell_search import cell_effort
from gmm_dask.mixture.clustering import alike
from gmm_dask.mixture.competition import (
    HOPELESS,
    REPEATED,
    SAME,
    Competition,
    Run,
    drop_repeats,
    thin_out,
)
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.criteria import health
from gmm_dask.mixture.effort import effort_for, final_rows_of
from gmm_dask.mixture.em import Candidate, EMState, Status, fit_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import initial_parameters, kmeans_labels, wide_start
from gmm_dask.mixture.iterations import Iteration
from gmm_dask.mixture.moves import effort_of_moves, improve_by_moves, split, split_compiled
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.race import Race
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.search import (
    count_runs,
    search,
    worth_searching,
)
from gmm_dask.mixture.spec import EMOptions, MixtureSpec, Start
from gmm_dask.mixture.starts import SharedSample, StartKind, Starts

TYPES = tuple(COVARIANCE_TYPES)


def run(X, k, *, covariance_type="full", random_state=0, sample_weight=None, **changed):
    settings = {"keep": 1, "threads": 2} | changed
    spec = MixtureSpec(
        k, covariance_type, settings.pop("reg_covar", 1e-6), settings.pop("start", Start())
    )
    sample = Sample(X, sample_weight)
    return search(sample, spec, EMOptions(), random_state=random_state, **settings)


@pytest.fixture(scope="module")
def X():
    return LADDER["overlapping 4x6"].draw(6_000)


@pytest.fixture
def eager(monkeypatch):
    """Use threads for any amount of work."""
    for module in ("competition", "expectation", "moves", "rounds.fit"):
        monkeypatch.setattr(f"gmm_dask.mixture.{module}.WORTH_THREADS", 0)


@pytest.mark.usefixtures("eager")
def test_the_outcome_does_not_depend_on_the_number_of_threads(X):
    expected, expected_summary = run(X, 6, threads=1, whole=True)
    for threads in (2, 5):
        mixtures, summary = run(X, 6, threads=threads, whole=True)
        assert mixtures[0].digest == expected[0].digest
        assert summary.log_likelihoods == expected_summary.log_likelihoods


def test_the_k_means_of_scikit_learn_runs_on_one_thread(X, monkeypatch):
    """Its bits depend on the number of OpenMP threads, which each thread limits for itself."""
    limits = []
    fit = KMeans.fit

    def spied(*arguments, **keywords):
        limits.extend(
            library["num_threads"]
            for library in threadpool_info()
            if library["user_api"] == "openmp"
        )
        return fit(*arguments, **keywords)

    monkeypatch.setattr(KMeans, "fit", spied)
    kmeans_labels(X, None, 6, np.random.RandomState(0))
    assert set(limits) == {1}


def test_the_seed_decides(X):
    (first,), _ = run(X, 6, random_state=3)
    (again,), _ = run(X, 6, random_state=3)
    (different,), _ = run(X, 6, random_state=4)
    assert first.digest == again.digest
    assert first.digest != different.digest


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_whole_sample_ends_no_lower_than_the_start_of_scikit_learn(X, covariance_type):
    start = initial_parameters(X, None, MixtureSpec(6, covariance_type), np.random.RandomState(0))
    (candidate,) = fit_em(ExpectationOn(X, None), [start], MixtureSpec(), EMOptions())
    _, summary = run(X, 6, covariance_type=covariance_type, whole=True)
    assert candidate.log_likelihood in summary.log_likelihoods
    assert summary.log_likelihoods[0] >= candidate.log_likelihood


def test_as_many_mixtures_as_wanted_best_first(X):
    mixtures, summary = run(X, 6, keep=4)
    assert len(mixtures) == 4
    assert len({mixture.digest for mixture in mixtures}) == 4
    assert list(summary.log_likelihoods) == sorted(summary.log_likelihoods, reverse=True)


@pytest.mark.parametrize("whole", [False, True])
def test_progress_counts_every_run(X, whole):
    counts = []
    run(X, 6, whole=whole, advanced=counts.append)
    assert counts == sorted(set(counts))
    assert counts[-1] == count_runs(len(X), 4, MixtureSpec(6), 1, whole)


def competition_on(X):
    return Competition(ThreadPoolExecutor(1), 1, X.var(axis=0), MixtureSpec(), lambda done: None)


def run_of(X, means, variances, iterations):
    """A run after some iterations from round components of equal weight."""
    k, d = np.shape(means)
    covariances = np.multiply.outer(np.asarray(variances), np.eye(d))
    start = MixtureParameters.from_covariances("full", np.full(k, 1 / k), means, covariances)
    spec, options = MixtureSpec(), EMOptions(0.0, iterations)
    candidate = fit_em(ExpectationOn(X, None), [start], spec, options)[0]
    return Run(StartKind.KMEANS, candidate, start)


def test_the_best_of_each_kind_goes_on_unless_it_has_defects(X):
    start = wide_start(X, MixtureSpec(6), np.random.RandomState(0))
    kinds = [StartKind.KMEANS, StartKind.KMEANS, StartKind.SEEDS, StartKind.WIDE, StartKind.WIDE]
    runs = [Run.begin(kind, start) for kind in kinds]
    assert thin_out(runs, 3) == [runs[0], runs[2], runs[3]]
    assert thin_out(runs, 3, lambda run: run is not runs[3]) == [runs[0], runs[2], runs[4]]
    assert thin_out(runs, 3, lambda run: run.kind is not StartKind.WIDE) == runs[:3]
    assert thin_out(runs, 3, lambda run: False) == runs[:3]


def test_a_finalist_goes_on_only_if_it_can_win(X):
    sample, options = Sample(X, None), EMOptions(1e-4, 50)
    random = np.random.default_rng(0)
    near = run_of(X, X[random.choice(len(X), 6)], np.ones(6), 30)
    poor = run_of(X, np.tile(X.mean(axis=0), (6, 1)) + 1e-9 * X[:6], np.full(6, X.var()), 3)
    assert near.candidate.log_likelihood - poor.candidate.log_likelihood > HOPELESS
    close = run_of(X, X[random.choice(len(X), 6)], np.ones(6), 30)
    gap = near.candidate.log_likelihood - close.candidate.log_likelihood
    runs = [near, close] if gap > 0 else [close, near]
    assert SAME < abs(gap) < HOPELESS
    assert len(competition_on(X).finish([sample], runs, options, 1)) == 2
    for second in (poor, runs[0]):
        competition = competition_on(X)
        assert len(competition.finish([sample], [runs[0], second], options, 1)) == 1
        assert competition.done == 2
        assert len(competition.finish([sample], [runs[0], second], options, 2)) == 2


def test_a_run_given_up_goes_on_after_all_if_the_best_collapses():
    random = np.random.default_rng(0)
    X = random.normal(size=(3000, 2))
    X[:300] = 1.0
    collapsed = run_of(X, [[0.0, 0.0], [1.0, 1.0]], [1.0, 1e-6], 3)
    sound = run_of(X, [[-1.0, 0.0], [1.0, 0.0]], [1.0, 1.0], 3)
    assert collapsed.candidate.log_likelihood - sound.candidate.log_likelihood > HOPELESS
    options = EMOptions(1e-4, 5)
    finished = competition_on(X).finish([Sample(X, None)], [collapsed, sound], options, 1)
    assert len(finished) == 2
    assert health(finished[0].candidate.parameters, None, X.var(axis=0), 1e-6).defects == 0


def test_every_start_breaks_down_where_a_column_is_constant():
    X = np.random.default_rng(0).normal(size=(3_000, 2))
    X[:, 1] = 7.0
    with pytest.raises(NumericalError, match="every start of the search broke down: the covar"):
        run(X, 3, reg_covar=0.0)


@pytest.mark.parametrize("whole", [False, True])
def test_every_mixture_comes_with_its_start(X, whole):
    mixtures, summary = run(X, 6, keep=3, whole=whole)
    assert len(summary.firsts) == 3
    for mixture, first, reached in zip(
        mixtures, summary.firsts, summary.log_likelihoods, strict=False
    ):
        assert mixture.digest != first.digest
        (again,) = fit_em(ExpectationOn(X, None), [first], MixtureSpec(6), EMOptions(0.0, 1))
        assert again.log_likelihood < reached


def test_weights_count_as_rows(X):
    """Rows of another mixture do not affect the result if they weigh next to nothing."""
    far = X + 50.0
    weights = np.concatenate([np.ones(len(X)), np.full(len(far), 1e-12)])
    (mixture,), _ = run(np.concatenate([X, far]), 6, sample_weight=weights)
    assert (np.abs(mixture.means) < 20).all()


@pytest.mark.parametrize("effort", [effort_for, cell_effort])
def test_with_hundreds_of_features_fewer_runs_begin(effort):
    few, many = (effort(100_000, d, MixtureSpec(8), 1) for d in (64, 384))
    assert few.starts > 8
    assert len(few.rounds) == 3
    assert many.starts == 3  # one of each kind, of which none is to be given up
    assert [round_.keep for round_ in many.rounds] == [3]
    kept = effort(100_000, 384, MixtureSpec(8), 5)
    assert kept.starts == kept.rounds[-1].keep == 5
    assert many.scouted
    assert not few.scouted
    diag = effort(100_000, 384, MixtureSpec(8, "diag"), 1)
    assert diag.starts == 6
    assert diag.rounds[0].rows < many.rounds[0].rows  # variances need fewer rows than matrices
    assert not diag.scouted
    # Whoever fixes a part of the start, or asks for its method, gets the runs of that.
    assert not effort(100_000, 384, MixtureSpec(8, start=Start("random")), 1).scouted


def test_the_head_of_a_sample_is_so_many_of_its_rows_in_their_order():
    sample = Sample(np.arange(100.0)[:, None], np.arange(100.0))
    head = sample.head(30, np.random.RandomState(0))
    rows = np.sort(np.random.RandomState(0).permutation(100)[:30])
    np.testing.assert_array_equal(head.X[:, 0], rows)
    np.testing.assert_array_equal(head.sample_weight, rows)
    assert sample.head(100, np.random.RandomState(0)) is sample


@pytest.mark.parametrize("separation", [1.0, 0.4])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_embeddings_end_no_lower_than_by_scikit_learn(covariance_type, separation, monkeypatch):
    monkeypatch.setattr(effort_module, "MOST_MATRIX_MULTIPLICATIONS", 0)
    kind = EmbeddingKind(64, 5, separation)
    X, labels = kind.draw(6_000)
    keywords = {"covariance_type": covariance_type, "reg_covar": 1e-9, "random_state": 0}
    model, reference = (cls(5, **keywords).fit(X) for cls in (GaussianMixture, Reference))
    assert model.score(X) > reference.score(X) - 1e-3
    if separation == 1.0 and covariance_type in ("full", "tied"):  # the noise is correlated
        assert alike(model.predict(X), labels.astype(np.int32), 5)


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_beside_the_scouts_begins_the_start_of_scikit_learn(covariance_type):
    """Its k-means goes on until it rests, which ten iterations do not where clusters overlap."""
    X, _ = EmbeddingKind(64, 8, 0.3, common=0.0).draw(2_000)
    sample = Sample(np.asfortranarray(X), None)
    starts = Starts(SharedSample(sample, 3), 2_000, MixtureSpec(8, covariance_type))
    expected = KMeans(8, n_init=1, random_state=3).fit(X)
    assert expected.n_iter_ > 12
    np.testing.assert_array_equal(starts.label_by_method(sample), expected.labels_)


def test_clusters_of_fewer_rows_than_features_end_no_lower_than_by_scikit_learn(monkeypatch):
    """Scouts find clusters then whose covariances are singular, and k-means is what is left."""
    monkeypatch.setattr(effort_module, "MOST_MATRIX_MULTIPLICATIONS", 0)
    X, _ = EmbeddingKind(64, 8, 0.3, 0.1, common=0.0).draw(1_300, seed=1)
    model, reference = (cls(8, random_state=0).fit(X) for cls in (GaussianMixture, Reference))
    assert model.score(X) > reference.score(X)


def test_scouts_whose_clusters_are_too_small_leave_the_search_to_the_rounds(monkeypatch):
    monkeypatch.setattr(effort_module, "MOST_MATRIX_MULTIPLICATIONS", 0)
    X, _ = EmbeddingKind(64, 3, 1.0, 0.05).draw(1_200)
    spec = MixtureSpec(3, reg_covar=0.0)
    mixtures, summary = search(
        Sample(X, None), spec, EMOptions(1e-3, 100), random_state=0, keep=1, threads=1, whole=True
    )
    assert len(mixtures) == 1
    assert summary.failed > 0


def test_what_leaves_no_choice_is_not_searched():
    fixed = MixtureSpec(3, start=Start(means=np.zeros((3, 2))))
    assert worth_searching(100, 2, MixtureSpec(3))
    assert not worth_searching(10**9, 2, MixtureSpec(1))
    assert not worth_searching(17, 2, MixtureSpec(3))  # three full covariances need nine rows
    assert worth_searching(18, 2, MixtureSpec(3))
    assert not worth_searching(2_000, 2, fixed)
    assert worth_searching(2_001, 2, fixed)


def test_without_iterations_the_start_is_that_of_scikit_learn():
    X = iris()
    settings = {"n_components": 3, "max_iter": 0, "random_state": 0}
    reference = Reference(**settings).fit(X)
    fitted = GaussianMixture(**settings).fit(X)
    order = np.argsort(-reference.weights_)
    np.testing.assert_allclose(fitted.means_, reference.means_[order], rtol=1e-12)


def test_without_a_search_a_fit_takes_the_path_of_scikit_learn():
    reference = Reference(3, random_state=0).fit(iris())
    fitted = GaussianMixture(3, random_state=0, search_rows=None).fit(iris())
    assert fitted.n_iter_ == reference.n_iter_
    assert fitted.lower_bound_ == pytest.approx(reference.lower_bound_, rel=1e-9)


def resting(X, labels, covariance_type):
    """The candidate that EM brings to rest from a start by labels."""
    shares = np.eye(labels.max() + 1)[labels]
    means = (shares.T @ X) / shares.sum(axis=0)[:, None]
    matrices = np.stack([np.cov(X[labels == c].T, bias=True) for c in range(shares.shape[1])])
    full = MixtureParameters.from_covariances("full", shares.mean(axis=0), means, matrices)
    if covariance_type == "full":
        return fit_em(ExpectationOn(X, None), [full], MixtureSpec(), EMOptions(1e-6, 200))[0]
    spread = {
        "tied": matrices.mean(axis=0),
        "diag": np.einsum("kdd->kd", matrices),
        "spherical": np.einsum("kdd->k", matrices) / X.shape[1],
    }[covariance_type]
    start = MixtureParameters.from_covariances(covariance_type, full.weights, means, spread)
    return fit_em(ExpectationOn(X, None), [start], MixtureSpec(), EMOptions(1e-6, 200))[0]


@pytest.mark.parametrize("patience", [None, 8])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_move_takes_a_wasted_component_to_where_one_is_missing(covariance_type, patience):
    """Two components share one cluster while another has to cover two."""
    random = np.random.default_rng(1)
    centres = np.array([[0.0, 0.0], [30.0, 0.0], [30.0, 12.0]])
    truth = np.repeat(np.arange(3), 1_000)
    X = centres[truth] + random.normal(size=(3_000, 2))
    wrong = np.where(truth == 0, X[:, 0] > 0, 2).astype(int)
    stuck = resting(X, wrong, covariance_type)
    right = resting(X, truth, covariance_type)
    assert right.log_likelihood > stuck.log_likelihood + 0.1
    effort = replace(effort_of_moves(COVARIANCE_TYPES[covariance_type]), patience=patience)
    better, iterations = improve_by_moves(
        ExpectationOn(X, None), stuck, MixtureSpec(3, covariance_type), X.var(axis=0), effort
    )
    assert better.log_likelihood == pytest.approx(right.log_likelihood, abs=1e-3)
    assert iterations > 0


@pytest.mark.parametrize("splitter", [split, split_compiled])
def test_a_cut_without_covariance_does_not_spoil_the_other_cut(splitter):
    """The core of these rows is a repeated value; a cut across the middle separates them."""
    random = np.random.default_rng(0)
    sides = [random.normal(centre, 1, (300, 1)) for centre in (-5, 5)]
    X = np.asfortranarray(np.concatenate([np.zeros((800, 1)), *sides]))
    gaussian = MixtureParameters.from_covariances("full", [1.0], [[X.mean()]], [[[X.var()]]])
    gain, halves = splitter(X, np.ones(len(X)), gaussian, MixtureSpec(reg_covar=0.0), 0)
    assert gain > 100
    assert halves.n_components == 2


def test_of_many_components_all_that_are_misplaced_are_moved_at_once():
    random, k = np.random.default_rng(0), 36
    centres = 20.0 * np.stack(np.meshgrid(np.arange(6), np.arange(6)), axis=-1).reshape(-1, 2)
    truth = np.repeat(np.arange(k), 150)
    X = np.asfortranarray(centres[truth] + random.normal(size=(len(truth), 2)))
    wrong = truth.copy()
    for shared, halved in ((0, 20), (5, 30), (10, 35)):
        wrong[truth == shared + 1] = shared  # one component for two clusters,
        second = np.flatnonzero(truth == halved)[::2]
        wrong[second] = shared + 1  # and two components for one
    effort = replace(effort_of_moves(COVARIANCE_TYPES["full"]), moves=1)
    start, best = resting(X, wrong, "full"), resting(X, truth, "full")
    variances = X.var(axis=0)
    moved, _ = improve_by_moves(ExpectationOn(X, None), start, MixtureSpec(k), variances, effort)
    assert best.log_likelihood - start.log_likelihood > 0.1
    assert moved.log_likelihood == pytest.approx(best.log_likelihood, abs=1e-3)


def test_most_starts_of_many_components_are_by_k_means_or_its_seeds(X):
    shared = SharedSample(Sample(X, None), 0)
    few, many = (Starts(shared, len(X), MixtureSpec(k)).kinds(12) for k in (8, 32))
    assert few.count(StartKind.WIDE) == 4
    assert many.count(StartKind.WIDE) == 1
    assert len(many) == 12
    assert set(many[:3]) == set(few[:3])
    assert len(Starts(shared, len(X), MixtureSpec(32)).kinds(1)) == 1


def test_a_run_at_rest_waits_for_the_next_round(monkeypatch):
    """Of clusters far apart the first iteration is all there is to do."""
    X = np.asfortranarray(LADDER["separated 8x10"].draw(20_000))
    _, summary = run(X, 10)
    monkeypatch.setattr(search_module, "AT_REST", 0.0)
    _, untiring = run(X, 10)
    assert summary.iterations < 0.8 * untiring.iterations
    assert summary.log_likelihoods == pytest.approx(untiring.log_likelihoods, abs=1e-6)


def test_a_good_mixture_is_left_as_it_is():
    random = np.random.default_rng(2)
    truth = np.repeat(np.arange(3), 1_000)
    X = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]])[truth] + random.normal(size=(3_000, 2))
    right = resting(X, truth, "full")
    effort = effort_of_moves(COVARIANCE_TYPES["full"])
    kept, _ = improve_by_moves(ExpectationOn(X, None), right, MixtureSpec(), X.var(axis=0), effort)
    assert kept is right


@pytest.mark.parametrize("seed", [3, 5])
def test_components_that_share_a_centre_are_told_apart(seed):
    """Here short runs favour mixtures that end lower; without moves, both seeds fail."""
    kind = LADDER["concentric 5x4"]
    X = np.asfortranarray(kind.draw(30_000))
    reached = [run(X, 4, random_state=s)[1].log_likelihoods[0] for s in (0, seed)]
    assert reached[0] == pytest.approx(reached[1], abs=2e-3)


def test_what_searches_share_is_computed_once_and_freed_when_nobody_asks(X):
    shared = SharedSample(Sample(X, None), 0)
    made = []

    def ask(number):
        return shared.labels(100, 2, number, lambda: made.append(number) or number)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, [0, 1] * 8)) == [0, 1] * 8
    assert sorted(made) == [0, 1]
    shared.forget_unused()
    assert ask(1) == 1
    shared.forget_unused()
    assert (ask(1), ask(0)) == (1, 0)
    assert sorted(made) == [0, 0, 1]
    assert shared.head(100) is shared.head(100)
    assert shared.head(len(X)) is shared.sample
    np.testing.assert_array_equal(
        shared.head(100).X, X[np.sort(np.random.RandomState(0).choice(len(X), 100, replace=False))]
    )


def test_early_rounds_are_in_single_precision_only_where_digits_are_left(X):
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(X))
    singles = Sample(X, weights).in_singles()
    assert singles.X.dtype == np.float32
    assert singles.sample_weight is weights
    np.testing.assert_allclose(singles.X, X, rtol=1e-7)
    far, tiny, constant = X + 1e5, X * 1e-13, X.copy()
    constant[:, 0] = 3.0
    holed = X.copy()
    holed[0, 0] = np.nan
    for rows in (far, tiny, constant, holed, singles.X):
        sample = Sample(rows, None)
        assert sample.in_singles() is sample


@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_finalists_run_on_float32_rows_unless_that_costs_digits(X, offset, monkeypatch):
    """They come to rest to 1e-4 nats; the polish computes in the caller's precision."""
    seen = []
    finish = Competition.finish

    def spied(self, stages, *arguments):
        seen.extend(stages)
        return finish(self, stages, *arguments)

    monkeypatch.setattr(Competition, "finish", spied)
    rows = np.tile(X, (7, 1)) + offset  # more than twice the rows on which finalists rest first
    run(rows, 6)
    assert [len(stage.X) for stage in seen] == list(final_rows_of(len(rows)))
    assert [stage.X.dtype for stage in seen] == 2 * [np.float64 if offset else np.float32]


def test_to_a_tolerance_below_the_noise_of_float32_rows_run_in_float64(X, monkeypatch):
    """The start of scikit-learn runs to the tolerance of the polish, which float32 cannot reach."""
    seen = []
    ended = Competition.run

    def spied(self, rows, runs, options):
        seen.append((options.tol, rows.X.dtype))
        return ended(self, rows, runs, options)

    monkeypatch.setattr(Competition, "run", spied)
    sample, spec = Sample(X[:3_000].astype(np.float32), None), MixtureSpec(2, "diag")
    for tol, dtype in ((1e-6, np.float32), (1e-7, np.float64)):
        search(sample, spec, EMOptions(tol, 3), random_state=0, keep=1, threads=1, whole=True)
        assert seen[-1] == (tol, dtype)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_compiled_split_is_the_other_one(covariance_type, weighted, offset):
    random = np.random.default_rng(4)
    X = LADDER["overlapping 4x6"].draw(1_500) + offset
    spec = MixtureSpec(2, covariance_type)
    parameters = initial_parameters(X, None, spec, np.random.RandomState(0))
    share = random.uniform(size=len(X)) ** 3 * (random.uniform(0.5, 2.0) if weighted else 1.0)
    gain, halves = split(X, share, parameters, spec, 0)
    other_gain, others = split_compiled(X, share, parameters, spec, 0)
    assert other_gain == pytest.approx(gain, rel=1e-3, abs=0.05)
    if others.weights[0] != pytest.approx(halves.weights[0], rel=1e-4):
        others = others.reordered(np.array([1, 0]))  # an axis may point either way
    np.testing.assert_allclose(others.weights, halves.weights, rtol=1e-6)
    np.testing.assert_allclose(others.means - offset, halves.means - offset, atol=1e-5)
    np.testing.assert_allclose(others.covariances, halves.covariances, rtol=1e-5, atol=1e-6)


def test_too_few_rows_are_not_split():
    X = np.asfortranarray(np.random.default_rng(0).normal(size=(11, 2)))
    gaussian = MixtureParameters.from_covariances("full", [1.0], [[0.0, 0.0]], [np.eye(2)])
    for splitter in (split, split_compiled):
        assert splitter(X, np.ones(11), gaussian, MixtureSpec(), 0) == (-np.inf, None)
    flat = np.column_stack([X[:, 0], np.zeros(11)]).repeat(3, axis=0)
    singular = split_compiled(flat, np.ones(33), gaussian, MixtureSpec(reg_covar=0.0), 0)
    assert singular == (-np.inf, None)


def runner(*bounds, starved=False, status=Status.RUNNING):
    """A candidate that reached these mean log-likelihoods."""
    means, weights = np.array([[0.0], [9.0]]), np.full(2, 0.5)
    mixture = MixtureParameters.from_covariances("spherical", weights, means, np.ones(2))
    history = tuple(Iteration(bound, weights, means, (), 0.0) for bound in bounds)
    counts = np.array([100.0, 0.0 if starved else 100.0])
    return Candidate(mixture, status, history, counts, 200, 200.0)


def racing(race, *candidates):
    state = race.give_up(EMState(candidates, max(one.n_iter for one in candidates)))
    return [candidate.status is Status.RUNNING for candidate in state.candidates]


def test_a_race_gives_up_those_that_cannot_take_a_place():
    race = Race(np.array([20.0]), 1e-6)
    leader, near = runner(-3.0, -2.5, -2.0), runner(-3.0, -2.3, -2.1)  # promises 0.08
    far, rising = runner(-4.0, -3.1, -3.0), runner(-4.0, -3.9, -3.0)
    starved = runner(-3.0, -1.5, -1.0, starved=True)
    assert racing(race, leader, near, far, rising) == [True, True, False, True]
    assert racing(race, starved, near, far) == [True, True, False]
    assert racing(race, starved, far) == [True, True]  # what has a defect takes no place
    assert racing(replace(race, places=2), leader, far) == [True, True]
    assert racing(replace(race, margin=0.2), near) == [True]
    assert racing(replace(race, margin=0.3), near) == [False]
    assert racing(replace(race, least=0.0), far) == [False]
    assert racing(replace(race, patience=4), leader, far) == [True, True]
    broken = runner(-3.0, -2.0, status=Status.ILL_CONDITIONED)
    (kept,) = race.give_up(EMState((broken,), 3)).candidates
    assert kept is broken


def test_of_runs_that_rest_at_one_mixture_one_remains():
    def rested(*bounds):
        candidates = [runner(bound) for bound in bounds]
        return [Run(StartKind.WIDE, candidate, candidate.parameters) for candidate in candidates]

    runs = rested(-1.0, -1.0 - 0.5 * REPEATED, -1.2, -1.2 - 0.9 * REPEATED)
    assert drop_repeats(runs, 1) == [runs[0], runs[2]]
    assert drop_repeats(runs, 3) == [runs[0], runs[2], runs[1]]
    assert drop_repeats(runs[:2], 2) == runs[:2]
    assert drop_repeats([], 1) == []
