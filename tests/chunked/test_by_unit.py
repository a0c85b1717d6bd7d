"""Sums of units: those of each file alone, with the same bits on threads and on workers."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask.chunked.batches import scan_batch
from gmm_dask.chunked.by_unit import Measured, measure_units, sum_units
from gmm_dask.chunked.cluster import ClusterExecutor
from gmm_dask.chunked.evaluation import evaluate
from gmm_dask.chunked.first_look import FirstLook, LookRequest, look_at_rows
from gmm_dask.chunked.scan import Executor, Scanner
from gmm_dask.chunked.survey import SurveyRequest
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import InputSection
from gmm_dask.events import Stage
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.nulls import NullPolicy
from gmm_dask.storage.input.plan import InputPlan, plan_input
from gmm_dask.storage.input.reader import parquet_chunks

#: Two files are one unit; a third has rows for two groups.
UNITS = (0, 0, 1, 2)
ROWS = (700, 900, 2500, 400)
REQUEST = SurveyRequest(3, 500, 2**60, False, NullPolicy.DROP)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> InputPlan:
    """Four files, one row in fifty with a null."""
    root = tmp_path_factory.mktemp("units")
    random = np.random.default_rng(0)
    for number, rows in enumerate(ROWS):
        values = random.normal(size=(rows, 2)) + number
        first = pa.array(values[:, 0], mask=np.arange(rows) % 50 == 3)
        table = pa.table({"a": first, "b": values[:, 1]})
        pq.write_table(table, root / f"{number}.parquet", row_group_size=600)
    return plan_input(InputSection(path=str(root), columns=["a", "b"], nulls=NullPolicy.DROP))


@pytest.fixture(scope="module")
def mixtures() -> tuple[MixtureParameters, ...]:
    means = np.array([[0.0, 0.0], [3.0, 3.0]])
    factors = np.tile(np.eye(2), (2, 1, 1))
    weights = np.array([0.4, 0.6])
    return (
        MixtureParameters("full", weights, means, factors, factors),
        MixtureParameters("full", weights[::-1].copy(), means, factors, factors),
    )


def measured(
    plan: InputPlan, executor: Executor, mixtures: tuple[MixtureParameters, ...]
) -> tuple[Measured, Scanner]:
    scanner = Scanner(parquet_chunks(plan, split_files=True), executor)
    argument = UNITS, REQUEST, mixtures
    return scanner.reduce(measure_units, argument, Stage.EVALUATE, NullPolicy.DROP), scanner


def bits(sums: Measured) -> list[bytes]:
    """Every number that is kept of the units."""
    return [
        array.tobytes()
        for unit in sums.units.ordered()
        for array in (
            unit.statistics.statistics[0].counts,
            unit.statistics.statistics[0].residual_sums,
            unit.statistics.statistics[0].residual_products,
            np.array(unit.statistics.statistics[0].log_likelihood),
            unit.surveyed.survey.moments.mean,
            unit.surveyed.survey.moments.squares,
            unit.surveyed.survey.draw.values,
        )
    ]


@pytest.mark.usefixtures("small_groups")
def test_workers_and_any_number_of_threads_give_the_same_bits(
    plan: InputPlan, mixtures: tuple[MixtureParameters, ...], executor: ClusterExecutor
) -> None:
    single, scanner = measured(plan, Threads(1, memory=0), mixtures)
    assert len(scanner.lanes) > 2
    for other in (Threads(3), executor):
        assert bits(measured(plan, other, mixtures)[0]) == bits(single)


@pytest.mark.usefixtures("small_groups")
def test_a_unit_has_the_sums_of_its_files_whatever_else_is_read(
    plan: InputPlan, mixtures: tuple[MixtureParameters, ...]
) -> None:
    sums, scanner = measured(plan, Threads(2), mixtures)
    totals = sums.units.ordered()
    assert [total.surveyed.survey.source_rows for total in totals] == [1600, 2500, 400]
    assert [total.surveyed.survey.dropped for total in totals] == [32, 50, 8]
    assert not any(total.surveyed.young for total in totals)
    densities = evaluate(scanner, mixtures, nulls=NullPolicy.DROP)
    for ours, theirs in zip(sums.evaluation.summaries, densities, strict=True):
        assert ours.log_likelihood == theirs.log_likelihood
        assert ours.rows == theirs.rows
    chunks = scanner.chunks.read(0, len(scanner.chunks.rows))
    values = np.concatenate([rows.values for rows in chunks])
    complete = values[1600:4100]
    expected = sum_statistics(mixtures[0], complete[~np.isnan(complete).any(axis=1)])
    statistics = totals[1].statistics.statistics[0]
    np.testing.assert_allclose(statistics.counts, expected.counts, rtol=1e-12)
    np.testing.assert_allclose(statistics.residual_products, expected.residual_products, rtol=1e-12)

    argument = UNITS, mixtures
    batches = scanner.reduce(sum_units, argument, Stage.POLISH, NullPolicy.DROP).ordered()
    assert [batch.statistics[0].counts.tolist() for batch in batches] == [
        total.statistics.statistics[0].counts.tolist() for total in totals
    ]
    alone = Scanner(parquet_chunks(plan, split_files=True), Threads(1))
    request = LookRequest(UNITS, REQUEST, mixtures[0], frozenset())
    surveyed = alone.reduce(look_at_rows, request, Stage.SURVEY).surveys.ordered()
    for first, second in zip(surveyed, totals, strict=True):
        assert first.survey.moments.mean.tolist() == second.surveyed.survey.moments.mean.tolist()
        assert first.survey.draw.numbers.tolist() == second.surveyed.survey.draw.numbers.tolist()


def looked(plan: InputPlan, executor: Executor, mixture: MixtureParameters, nulls: NullPolicy):
    scanner = Scanner(parquet_chunks(plan, split_files=True), executor)
    request = LookRequest(UNITS, replace(REQUEST, nulls=nulls), mixture, frozenset({1, 3}))
    return scanner.reduce(look_at_rows, request, Stage.SURVEY), scanner


def bits_of_look(look: FirstLook) -> list[bytes]:
    assert look.new is not None
    deviations, densities = look.new.deviations, look.new.densities
    sums = [deviations.sums, deviations.squares, densities.bins, densities.occupancy]
    for survey, statistics in zip(look.surveys.ordered(), look.statistics.ordered(), strict=True):
        sums += [survey.survey.moments.squares, survey.survey.draw.values]
        sums += [statistics.residual_sums, statistics.residual_products]
    return [array.tobytes() for array in sums]


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("nulls", [NullPolicy.DROP, NullPolicy.MARGINALIZE])
def test_the_first_look_takes_in_one_scan_what_would_cost_three(
    plan: InputPlan,
    mixtures: tuple[MixtureParameters, ...],
    executor: ClusterExecutor,
    nulls: NullPolicy,
) -> None:
    look, scanner = looked(plan, Threads(2), mixtures[0], nulls)
    for other in (Threads(1, memory=0), executor):
        assert bits_of_look(looked(plan, other, mixtures[0], nulls)[0]) == bits_of_look(look)
    batches = scanner.reduce(sum_units, (UNITS, mixtures[:1]), Stage.POLISH, nulls).ordered()
    for statistics, batch in zip(look.statistics.ordered(), batches, strict=True):
        expected = batch.statistics[0].residual_products
        assert statistics.residual_products.tobytes() == expected.tobytes()
    part = replace(plan, files=(plan.files[1], plan.files[3]))
    alone = scan_batch(Scanner(parquet_chunks(part), Threads(1)), mixtures[0], nulls)
    assert look.new is not None
    assert look.new.densities.rows == alone.densities.rows
    np.testing.assert_array_equal(look.new.densities.bins, alone.densities.bins)
    np.testing.assert_allclose(look.new.deviations.held, alone.deviations.held, rtol=1e-12)
    np.testing.assert_allclose(look.new.deviations.sums, alone.deviations.sums, rtol=1e-9)
    np.testing.assert_allclose(look.new.deviations.squares, alone.deviations.squares, rtol=1e-12)
    assert look.new.deviations.squared_weight == alone.deviations.squared_weight
