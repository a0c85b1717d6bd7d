"""The pictures of a fit can be decoded, repeat bit for bit, and show what they say."""

import io
import threading
import warnings
from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from PIL import Image

from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.merging import merge_components
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.report import densities, pairs
from gmm_dask.report.frame import ellipse, feature_limits, first_drawn, separating_features
from gmm_dask.report.palette import COLORS, component_colors
from gmm_dask.report.pictures import fit_pictures, log_likelihood_figure
from gmm_dask.report.view import View, format_percent, make_printable
from gmm_dask.storage.models.clusters import Clusters

ALONE = {"log_likelihood.png", "components.png", "responsibilities.png"}  # of one component
NAMES = ALONE | {"entropy.png"}


def mixture(k, d, seed=0, covariance_type="full"):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(k, d, d))
    matrices = factors @ factors.transpose(0, 2, 1) + 0.3 * np.eye(d)
    covariances = {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.diagonal(matrices, axis1=1, axis2=2).copy(),
        "spherical": matrices[:, 0, 0].copy(),
    }[covariance_type]
    weights = rng.dirichlet(np.full(k, 5.0))
    return MixtureParameters.from_covariances(
        covariance_type, weights, rng.uniform(-9.0, 9.0, (k, d)), covariances
    )


def rows_of(parameters, n, seed=1):
    rng = np.random.default_rng(seed)
    labels = rng.choice(parameters.n_components, size=n, p=parameters.weights)
    noise = rng.normal(size=(n, parameters.n_features))
    factors = np.linalg.cholesky(parameters.matrices)
    return parameters.means[labels] + np.einsum("nij,nj->ni", factors[labels], noise)


def columns_of(parameters):
    return [f"column {j}" for j in range(parameters.n_features)]


def clusters_of(final, n=300):
    assigned = assign(final, rows_of(final, n), responsibilities=True)
    return Clusters.of(merge_components(assigned.responsibilities), range(final.n_components))


def pictures_of(final, n=300, bounds=(-5.0, -4.2, -4.1), initial=None, **changed):
    arguments = {
        "sample": rows_of(final, n),
        "columns": columns_of(final),
        "initial": initial or mixture(final.n_components, final.n_features, seed=5),
        "final": final,
        "lower_bounds": bounds,
        "component_ids": range(final.n_components),
        "clusters": clusters_of(final),
    }
    return fit_pictures(**(arguments | changed))


def pixels_of(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return bytes(canvas.buffer_rgba())


def view_of(final, n=300, sample=None, ids=None, columns=None):
    return View.of(
        rows_of(final, n) if sample is None else sample,
        columns or columns_of(final),
        final,
        final,
        ids or range(final.n_components),
    )


def panels_of(figure):
    return {(axes.get_xlim(), axes.get_ylim()): axes for axes in figure.axes}


@pytest.mark.parametrize(
    ("k", "d", "covariance_type"),
    [(1, 1, "full"), (4, 1, "tied"), (1, 2, "diag"), (3, 2, "spherical"), (2, 3, "tied")],
)
def test_every_picture_decodes_and_has_ink(k, d, covariance_type):
    pictures = pictures_of(mixture(k, d, covariance_type=covariance_type))
    assert set(pictures) == (NAMES if k > 1 else ALONE)
    for png in pictures.values():
        with Image.open(io.BytesIO(png)) as image:
            image.load()
            assert image.format == "PNG"
            assert min(image.size) >= 700
            assert not image.info.keys() & {"Software", "Creation Time"}
            shades = np.asarray(image.convert("L"))
        assert 0.003 < np.mean(shades < 200) < 0.5


def test_the_same_fit_gives_the_same_bytes_with_any_style_of_the_user():
    final = mixture(3, 3)
    first = pictures_of(final, n=4_000)
    with matplotlib.rc_context({"font.size": 30, "figure.facecolor": "black"}):
        assert pictures_of(final, n=4_000) == first
        assert matplotlib.rcParams["font.size"] == 30
    moved = final.reordered(np.array([1, 0, 2]))
    assert pictures_of(moved, n=4_000)["components.png"] != first["components.png"]


def test_drawing_in_a_thread_leaves_no_pyplot_behind():
    drawn = []
    thread = threading.Thread(target=lambda: drawn.append(pictures_of(mixture(2, 2))))
    thread.start()
    thread.join(60)
    assert set(drawn[0]) == NAMES


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("scale", [1e-80, 1.0, 1e80])
def test_ellipse_has_the_axes_of_the_eigen_decomposition(sigma, scale):
    covariance = np.array([[4.0, 1.9], [1.9, 1.0]]) * scale
    mean = np.array([3.0, -2.0]) * np.sqrt(scale)
    outline = ellipse(mean, covariance, sigma, n_points=20_001)
    radii = np.linalg.norm(outline - mean, axis=1)
    values, vectors = np.linalg.eigh(covariance)
    assert radii.max() == pytest.approx(sigma * np.sqrt(values[1]), rel=1e-6)
    assert radii.min() == pytest.approx(sigma * np.sqrt(values[0]), rel=1e-4)
    farthest = (outline[radii.argmax()] - mean) / radii.max()
    assert abs(farthest @ vectors[:, 1]) == pytest.approx(1.0, rel=1e-6)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (outline - mean).T)
    np.testing.assert_allclose(np.linalg.norm(whitened, axis=0), sigma, rtol=1e-9)
    np.testing.assert_allclose(outline[0], outline[-1], rtol=1e-12)


@pytest.mark.parametrize(
    "covariance", [[[4.0, 2.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]], np.zeros((2, 2))]
)
def test_ellipse_of_a_singular_covariance_is_a_segment_or_a_point(covariance):
    outline = ellipse(np.zeros(2), np.array(covariance), 1.0)
    assert np.isfinite(outline).all()
    reached = np.abs(outline).max(axis=0)
    np.testing.assert_allclose(reached, np.sqrt(np.diagonal(covariance)), atol=1e-3)
    np.testing.assert_allclose(outline[:, 0] * reached[1], outline[:, 1] * reached[0], atol=1e-7)


def test_limits_hold_the_bulk_and_the_components_but_not_an_outlier():
    values = np.random.default_rng(0).normal(size=5_000)
    means, deviations = np.array([-1.0, 0.5]), np.array([0.5, 0.9])
    low, high = feature_limits(values, means, deviations)
    assert low < -3.0
    assert high > 3.2
    for outlier in (1e4, 1e9, 1e300):
        wild = feature_limits(np.append(values, [outlier, -outlier]), means, deviations)
        np.testing.assert_allclose(wild, (low, high), rtol=0.15)


def test_one_outlier_in_twenty_rows_does_not_squash_the_picture():
    final = MixtureParameters.from_covariances(
        "full", [0.95, 0.05], [[0.0, 0.0], [1e6, 0.0]], np.array([np.eye(2), 1e-3 * np.eye(2)])
    )
    sample = np.vstack([np.random.default_rng(0).normal(size=(19, 2)), [[1e6, 0.0]]])
    view = view_of(final, sample=sample)
    assert view.limits[0][1] < 10.0
    assert set(pictures_of(final, sample=sample)) == NAMES


def test_a_small_far_cluster_is_shown():
    values = np.concatenate([np.random.default_rng(0).normal(size=970), np.full(30, 1e4)])
    low, high = feature_limits(values, np.array([0.0, 1e4]), np.array([1.0, 1.0]))
    assert low < -2.0
    assert high > 1e4


def test_limits_of_a_constant_column_are_a_range_around_it():
    for value, deviation in [(0.0, 1e-3), (1e9, 1e-3), (-5.0, 1e-170), (0.0, 1e-300)]:
        low, high = feature_limits(np.full(7, value), np.array([value]), np.array([deviation]))
        assert low < value < high
        assert high - low < max(7.0 * deviation, 1e-12 * abs(value), 1e-270)


@pytest.mark.parametrize("offset", [1e9, -1.7e9])
def test_far_from_the_origin_the_picture_is_the_same(offset):
    final = mixture(2, 2)
    moved = MixtureParameters.from_covariances(
        "full", final.weights, final.means + offset, final.covariances
    )
    near, far = view_of(final), view_of(moved, sample=rows_of(final, 300) + offset)
    for feature in (0, 1):
        np.testing.assert_allclose(
            np.array(far.limits[feature]) - offset, near.limits[feature], atol=1e-5
        )
    assert set(pictures_of(moved)) == NAMES


def test_a_picture_drawn_over_another_is_the_one_drawn_alone():
    view = view_of(mixture(3, 3))
    over = pairs.responsibilities_figure(view, over=pairs.components_figure(view))
    assert pixels_of(over) == pixels_of(pairs.responsibilities_figure(view))


@pytest.mark.parametrize("n", [400, 6_000])
@pytest.mark.parametrize("figure_of", [pairs.components_figure, pairs.responsibilities_figure])
def test_all_pairs_are_drawn_each_once_with_rows(figure_of, n):
    view = view_of(mixture(2, 4), n)
    figure = figure_of(view)
    wanted = {(view.limits[x], view.limits[y]) for x, y in combinations(range(4), 2)}
    assert set(panels_of(figure)) == wanted
    assert len(figure.axes) == 6
    for axes in figure.axes:
        drawn = [
            item for item in axes.collections if isinstance(item, (PathCollection, PolyCollection))
        ]
        assert sum(len(item.get_offsets()) for item in drawn) > 100
    labels = {label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())}
    assert labels == {"", *view.names}


def test_three_ellipses_for_each_component_before_and_after():
    view = view_of(mixture(5, 2))
    (axes,) = pairs.components_figure(view).axes
    outlines = [item for item in axes.collections if isinstance(item, LineCollection)]
    assert [len(item.get_segments()) for item in outlines] == [5] * 6
    dashed = [item.get_linestyle()[0][1] is not None for item in outlines]
    assert dashed == [True] * 3 + [False] * 3
    heaviest = int(view.final.weights.argmax())
    expected = ellipse(view.final.means[heaviest], view.final.covariances[heaviest], 3.0)
    np.testing.assert_allclose(outlines[5].get_segments()[0], expected)


def test_hexagons_count_each_visible_row_once():
    view = view_of(mixture(3, 2), 5_000)
    (axes,) = pairs.components_figure(view).axes
    (hexagons,) = (item for item in axes.collections if isinstance(item, PolyCollection))
    counts = hexagons.get_array()
    visible = np.all(
        [
            (view.sample[:, j] >= view.limits[j][0]) & (view.sample[:, j] <= view.limits[j][1])
            for j in (0, 1)
        ],
        axis=0,
    )
    assert counts.sum() == visible.sum() > 4_800


def test_points_have_the_blend_of_their_responsibilities():
    final = MixtureParameters.from_covariances(
        "spherical", [0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [1.0, 1.0]
    )
    view = view_of(final, sample=np.array([[0.0, 1.0], [40.0, 0.0], [-40.0, 0.0]]), ids=[4, 9])
    blue, orange = component_colors([4, 9])
    order = np.argsort(view.sample[:, 0])
    np.testing.assert_allclose(view.blends[order], [blue, (blue + orange) / 2, orange], atol=1e-9)


def test_of_many_features_those_that_separate_are_shown_and_the_rest_named():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, 9)) * 0.01
    separating = [1, 2, 4, 5, 7, 8]
    means[:, separating] += np.arange(3.0)[:, None] * 10.0
    final = MixtureParameters.from_covariances("diag", np.full(3, 1 / 3), means, np.ones((3, 9)))
    assert separating_features(final, 6) == separating
    figure = pairs.components_figure(view_of(final))
    assert len(figure.axes) == 15
    written = " ".join(text.get_text() for text in figure.texts)
    assert "left out 3 of 9 columns: column 0, column 3, column 6" in written


def test_the_legend_names_ids_and_weights():
    final = MixtureParameters.from_covariances(
        "diag", [0.96549, 0.0301, 0.00441], np.arange(6.0).reshape(3, 2), np.ones((3, 2))
    )
    (legend,) = pairs.components_figure(view_of(final, ids=[7, 0, 12])).legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["7   96.5 %", "0   3.0 %", "12   0.44 %"]
    assert format_percent(1.0) == "100 %"


def test_components_in_the_same_place_are_named_side_by_side():
    final = MixtureParameters.from_covariances(
        "diag", [0.4, 0.3, 0.2, 0.1], [[0, 0], [0, 0], [0, 0], [5, 5]], np.ones((4, 2))
    )
    figure = pairs.components_figure(view_of(final))
    (axes,) = (axes for axes in figure.axes if axes.texts)
    figure.draw_without_rendering()
    assert {text.get_text() for text in axes.texts} == {"0", "1", "2", "3"}
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))


def test_legend_and_words_stay_inside_the_picture():
    for k, d in [(30, 1), (70, 1), (30, 2), (70, 2), (70, 3), (30, 4), (30, 7), (1, 7)]:
        final = mixture(k, d)
        long_names = [f"a rather long name of column number {j}" for j in range(d)]
        view = view_of(final, columns=long_names)
        figures = densities if d == 1 else pairs
        figure = figures.components_figure(view)
        figure.draw_without_rendering()
        for item in [*figure.legends, *figure.texts]:
            box = item.get_window_extent()
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1


def test_densities_integrate_to_the_mixture():
    final = mixture(4, 1, seed=3)
    grid = densities.density_grid(final, (-60.0, 60.0))
    areas = np.trapezoid(densities.component_densities(final, grid), grid, axis=0)
    np.testing.assert_allclose(areas, final.weights, rtol=1e-4)


def test_a_needle_is_on_the_grid_and_does_not_raise_the_picture():
    final = MixtureParameters.from_covariances(
        "full", [0.9, 0.1], [[0.0], [3.0001]], [[[1.0]], [[1e-16]]]
    )
    grid = densities.density_grid(final, (-4.0, 4.0))
    peak = densities.component_densities(final, grid)[:, 1].max()
    assert peak == pytest.approx(0.1 / np.sqrt(2 * np.pi) / 1e-8, rel=1e-6)
    view = view_of(final, 2_000)
    (axes,) = densities.components_figure(view).axes
    heights, _ = densities.histogram(view)
    assert heights.max() < axes.get_ylim()[1] < 3.0 * heights.max()


def test_histogram_has_the_area_of_the_rows_shown():
    view = view_of(mixture(2, 1), sample=np.append(np.linspace(0, 1, 99), 1e6)[:, None])
    heights, edges = densities.histogram(view)
    assert np.sum(heights * np.diff(edges)) == pytest.approx(0.99)


@pytest.mark.parametrize("n_points", [0, 1, 2, 3, 4, 200])
def test_likelihood_of_any_number_of_iterations(n_points):
    bounds = -4.0 - 0.9 ** np.arange(n_points)
    figure = log_likelihood_figure(bounds)
    (line,) = figure.axes[0].get_lines()
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, n_points + 1))
    np.testing.assert_array_equal(line.get_ydata(), bounds)
    assert len(figure.axes) == (2 if n_points >= 3 else 1)
    assert figure.axes[-1].get_xlabel() == "iteration"
    if n_points >= 3:
        (gains,) = figure.axes[1].get_lines()
        np.testing.assert_allclose(gains.get_ydata(), np.diff(bounds))
    assert set(pictures_of(mixture(1, 1), bounds=bounds)) == ALONE


def test_a_start_far_below_is_mentioned_and_not_drawn():
    bounds = np.array([-1.8e7, -4.19, -4.1557, -4.1554])
    assert first_drawn(bounds) == 1
    figure = log_likelihood_figure(bounds)
    assert figure.axes[0].get_ylim()[0] > -5.0
    assert "not drawn: iteration 1 at −1.8e+07" in [text.get_text() for text in figure.texts]
    assert first_drawn(np.array([-1e17, -1e9, -5.0, -4.0])) == 2
    assert first_drawn(np.array([-4.1, -4.001, -4.0])) == 0  # a fast polish is drawn whole
    assert first_drawn(np.array([-1e7, -4.0])) == 0


def test_losses_are_not_drawn_as_gains():
    figure = log_likelihood_figure([-3.0, -2.0, -2.0, -2.5, -1.9])
    (gains,) = figure.axes[1].get_lines()
    np.testing.assert_allclose(gains.get_ydata(), [1.0, 0.6])


@pytest.mark.parametrize("name", ["$\\frac{", "line\n色指数", "x" * 400, ""])
def test_any_column_name_can_be_drawn(name):
    final = mixture(2, 2)
    assert set(pictures_of(final, columns=[name, "other"])) == NAMES


def test_make_printable_keeps_greek_and_minus_and_marks_what_the_font_lacks():
    assert make_printable("B−V σ\n(mag)") == "B−V σ (mag)"
    assert make_printable("色") == "□"


@pytest.mark.parametrize("rows", [[[0.0, 0.0]], [[1.0, 1.0]] * 4, [[0.0, 5.0], [1.0, 5.0]]])
def test_tiny_and_constant_samples(rows):
    final = MixtureParameters.from_covariances(
        "full",
        [1.0],
        np.mean(rows, axis=0)[None],
        np.cov(np.array([*rows, *rows]).T)[None] + 1e-6 * np.eye(2),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(pictures_of(final, sample=np.array(rows), bounds=[1.0])) == ALONE


def test_colours_stay_with_ids_and_differ():
    np.testing.assert_array_equal(component_colors([5, 2])[1], component_colors([2, 9, 17])[0])
    for ids in (range(30), [0, 30, 60, 1], [100, 3, 7, 33]):
        assert len(np.unique(component_colors(ids), axis=0)) == len(ids)
    assert component_colors(range(75)).shape == (75, 3)
    assert len(set(COLORS)) == len(COLORS) == 30


def test_a_legend_of_many_components_sums_up_the_light_ones():
    final = mixture(70, 2)
    (legend,) = pairs.components_figure(view_of(final)).legends
    texts = [text.get_text() for text in legend.get_texts()]
    rest = np.sort(final.weights)[:40].sum()
    assert len(texts) == 31
    assert texts[-1] == f"40 others   {format_percent(rest)}"
