"""A fit that is interrupted anywhere continues there and ends with the same bits."""

import logging
import subprocess
import sys
import textwrap
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gmm_dask import steps
from gmm_dask.chunked.defects import Defects
from gmm_dask.chunked.draw import Draw
from gmm_dask.chunked.evaluation import BINS, DensitySummary
from gmm_dask.chunked.fit_records import CellSearch, FitState
from gmm_dask.chunked.label_survey import LABEL_ROWS, LabelSurvey
from gmm_dask.chunked.moments import Moments
from gmm_dask.chunked.replay import Frame
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.errors import StorageError
from gmm_dask.events import (
    CheckpointKept,
    IterationFinished,
    StageAdvanced,
    StageStarted,
    silent,
)
from gmm_dask.mixture.em import Candidate, EMState, Ending, Status
from gmm_dask.mixture.iterations import Iteration
from gmm_dask.mixture.labels import Ownership
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchSummary
from gmm_dask.storage.models.checkpoint import CHECKPOINTS, Checkpoint, open_checkpoint
from gmm_dask.storage.models.fit_state import decode, encode
from gmm_dask.storage.models.registry import Registry
from tests.steps.tables import files_below, make_run, out_of_core, write_day, write_days

KINDS = ("full", "tied", "diag", "spherical")


def bits(value):
    """All bits of a value except the fields that say how long something took."""
    if is_dataclass(value):
        return {
            field.name: bits(getattr(value, field.name))
            for field in fields(value)
            if field.name != "seconds"
        }
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [bits(item) for item in value]
    if isinstance(value, float):
        return value.hex()
    return value


# The codec

FLOATS = st.floats(width=64)
K, D, M = 3, 2, 5


def arrays(*shape, dtype=np.float64, elements=None):
    return hnp.arrays(dtype, shape, elements=elements)


def parameters(kind):
    shape = {"full": (K, D, D), "tied": (D, D), "diag": (K, D), "spherical": (K,)}[kind]
    return st.builds(
        MixtureParameters,
        st.just(kind),
        arrays(K),
        arrays(K, D),
        arrays(*shape),
        arrays(*shape),
    )


iterations = st.builds(
    Iteration,
    FLOATS,
    arrays(K),
    arrays(K, D),
    st.lists(st.integers(0, K - 1), max_size=K).map(tuple),
    FLOATS,
    FLOATS,
    st.lists(st.integers(0, K - 1), max_size=K).map(tuple),
)


def candidates(kind):
    return st.builds(
        Candidate,
        parameters(kind),
        st.sampled_from(Status),
        st.lists(iterations, max_size=3).map(tuple),
        st.none() | arrays(K),
        st.integers(0, 2**53),
        FLOATS,
        st.text(max_size=5),
        st.none() | st.integers(0, K - 1),
        ending=st.sampled_from(Ending),
    )


@st.composite
def summaries(draw):
    sums = {name: draw(FLOATS) for name in ("weight", "log_likelihood", "uncertainty")}
    sums |= {name: draw(FLOATS) for name in ("lowest", "highest", "ceiling")}
    sums |= {f"complete_{name}": draw(FLOATS) for name in ("weight", "log_likelihood")}
    bins = np.zeros(BINS)
    bins[draw(st.integers(0, BINS - 1))] = draw(FLOATS)
    labels = draw(st.dictionaries(st.sampled_from("ab"), arrays(K)))
    return DensitySummary(
        draw(st.integers(0, 2**53)),
        occupancy=draw(arrays(K)),
        bins=bins,
        label_counts=labels,
        **sums,
    )


places = st.lists(
    st.none() | st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)),
    min_size=D + 1,
    max_size=D + 1,
).map(tuple)
counts = arrays(D + 1, dtype=np.int64)


@st.composite
def states(draw):
    kind = draw(st.sampled_from(KINDS))
    single = draw(st.booleans())
    weighted = draw(st.booleans())
    survey = Survey(
        draw(st.integers(0, 2**53)),
        Moments(
            draw(st.integers(0, 2**53)),
            draw(arrays(D)),
            draw(arrays(D)),
            draw(arrays(D)),
            draw(arrays(D)),
            draw(st.none() | st.tuples(*[st.integers(0, 2**53)] * D)),
        ),
        draw(FLOATS),
        Defects(draw(counts), draw(counts), draw(places), draw(places)),
        (
            Draw(
                draw(st.integers(M, 2**40)),
                draw(arrays(M, dtype=np.uint64)),
                draw(arrays(M, dtype=np.int64)),
                draw(arrays(D, M, dtype=np.float32 if single else np.float64)).T,
                draw(arrays(M)) if weighted else np.empty(0),
            ),
        ),
        draw(st.integers(0, 2**53)),
        draw(st.integers(0, 2**53)),
        labels=draw(st.none() | label_surveys()),
    )
    starts = draw(st.lists(parameters(kind), max_size=2).map(tuple))
    search = st.builds(
        SearchSummary,
        **dict.fromkeys(("rows", "starts", "failed", "iterations"), st.integers(0, 2**53)),
        log_likelihoods=st.lists(FLOATS, max_size=3).map(tuple),
        seconds=st.floats(0, 1e9),
    )
    em = st.builds(
        EMState, st.lists(candidates(kind), min_size=1, max_size=2).map(tuple), st.integers(0, 99)
    )
    return FitState(
        survey,
        draw(st.none() | st.lists(st.integers(0, 2**64 - 1), max_size=4).map(tuple)),
        starts,
        tuple(draw(st.booleans()) for _ in starts),
        draw(st.none() | search),
        draw(st.none() | em),
        draw(st.integers(0, 99)),
        draw(st.lists(st.binary(min_size=16, max_size=16).map(bytes.hex), max_size=4).map(tuple)),
        tuple(
            Frame(number, tuple(draw(parameters(kind)) for _ in starts or "1"))
            for number in draw(st.sets(st.integers(1, 99), max_size=2))
        ),
        draw(st.lists(cell_searches(search), max_size=2).map(tuple)),
        draw(st.integers(0, 99)),
        draw(st.integers(0, 99)),
        draw(st.none() | st.just(Ownership(("a", "b"), (1, -1, 0)))),
        draw(st.dictionaries(st.sampled_from(("0af3", "1be4")), summaries())),
    )


@st.composite
def label_surveys(draw):
    rows = Draw(
        LABEL_ROWS,
        draw(arrays(M, dtype=np.uint64)),
        draw(arrays(M, dtype=np.int64)),
        draw(arrays(D, M)).T,
        np.empty(0),
        draw(arrays(M, dtype=np.int64)),
    )
    return LabelSurvey({"a": draw(st.integers(1, 2**53))}, rows)


def cell_searches(search):
    starts = st.lists(st.sampled_from(KINDS).flatmap(parameters), max_size=2).map(tuple)
    return st.builds(CellSearch, starts, st.none() | search, st.text(max_size=5))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with open_checkpoint(Registry(tmp_path_factory.mktemp("codec"), "codec"), "key") as opened:
        yield opened


@settings(max_examples=60)
@given(state=states())
def test_every_bit_of_a_state_comes_back(checkpoint, state):
    checkpoint.save(*encode(state))
    restored = decode(*checkpoint.load())
    assert bits(restored) == bits(state)
    assert restored.survey.draw.values.T.flags.c_contiguous  # feature-major, as it was


@settings(max_examples=15)
@given(state=states(), content=st.data())
def test_a_state_with_a_missing_part_is_refused(state, content):
    tensors, meta = encode(state)
    name = content.draw(st.sampled_from([name for name in tensors if not name.endswith("counts")]))
    if name == "fingerprints":
        return
    with pytest.raises((LookupError, TypeError, ValueError)):
        decode({key: array for key, array in tensors.items() if key != name}, meta)
    key = content.draw(st.sampled_from(sorted(meta.keys() - {"candidates"})))
    with pytest.raises((LookupError, TypeError, ValueError)):
        decode(tensors, {name: value for name, value in meta.items() if name != key})


# Interruption

DAYS = {"rows": 2000}
SMALL = {"fit__search_rows": 2500, "fit__n_init": 2, "fit__tol": 1e-9}
MODES = {
    "read again": (SMALL, 0),  # each iteration reads the files
    "cached": (SMALL, 2**30),  # the scanner caches their rows
    # The sample holds all rows; without a search the polish needs several iterations.
    "in memory": (
        {"fit__search_rows": "none", "fit__n_init": 2, "fit__init_params": "random"}
        | {"fit__max_iter": 5, "fit__tol": 0.0},
        0,
    ),
}


class StopError(Exception):
    """What a test raises in the middle of a fit."""


@pytest.fixture
def _saves_always(monkeypatch):
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 0.0)


def at_stage(stage):
    return lambda event: isinstance(event, StageStarted) and event.stage == stage


def at_iteration(number):
    return lambda event: isinstance(event, IterationFinished) and event.iteration == number


def inside(stage, times):
    """At the n-th progress event of a stage."""
    events = []

    def matches(event):
        if isinstance(event, StageAdvanced) and event.stage == stage:
            events.append(event)
        return len(events) == times

    return matches


def fit(run, memory=0, until=lambda event: False):
    """Run the fit step up to an event; return its result and all events."""
    events = []

    def notify(event):
        events.append(event)
        if until(event):
            raise StopError

    plan = steps.inspect_input(run)
    with out_of_core(plan, notify, memory=memory) as scanner:
        return steps.fit(run, plan, scanner, notify), events


def interrupt(run, until, memory=0):
    with pytest.raises(StopError):
        fit(run, memory, until)


def scans(events):
    return [
        event.stage for event in events if isinstance(event, StageStarted) and event.unit == "rows"
    ]


@pytest.mark.usefixtures("_saves_always")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_a_fit_interrupted_after_any_step_ends_with_the_same_bits(tmp_path, kind, mode):
    write_days(tmp_path, **DAYS)
    keys, memory = MODES[mode]
    run = make_run(tmp_path, model__covariance_type=kind, **keys)
    whole, events = fit(run, memory)
    checkpoint = tmp_path / "models" / "boxes" / CHECKPOINTS / whole.checkpoint_key
    iterations = [event for event in events if isinstance(event, IterationFinished)]
    assert len(iterations) >= 3
    points = [at_iteration(iteration.iteration) for iteration in iterations]
    if mode != "in memory":
        points += [at_stage("search"), at_stage("polish"), inside("polish", 2), inside("polish", 3)]
    for until in points:
        (checkpoint / "state").unlink()
        interrupt(run, until, memory)
        resumed, after = fit(run, memory)
        assert bits(resumed) == bits(whole)
        assert len(after) < len(events)
        assert "survey" not in scans(after)


@pytest.mark.usefixtures("_saves_always")
def test_a_fit_interrupted_after_every_step_in_turn_ends_with_the_same_bits(tmp_path):
    write_days(tmp_path, **DAYS)
    run = make_run(tmp_path, **SMALL)
    whole, events = fit(run)
    path = tmp_path / "models" / "boxes" / CHECKPOINTS / whole.checkpoint_key / "state"
    path.unlink()
    interrupt(run, at_stage("search"))
    interrupt(run, at_stage("polish"))
    iterations = max(event.iteration for event in events if isinstance(event, IterationFinished))
    for number in range(1, iterations + 1):
        interrupt(run, at_iteration(number))
    resumed, after = fit(run)
    assert bits(resumed) == bits(whole)
    assert after == [CheckpointKept()]


@pytest.mark.usefixtures("_saves_always")
def test_the_model_of_a_resumed_fit_is_the_same_bytes_and_no_checkpoint_remains(tmp_path):
    write_days(tmp_path, **DAYS)
    run = make_run(tmp_path, **SMALL)
    plan = steps.inspect_input(run)
    digests = []
    for number, until in enumerate([None, at_iteration(2)]):
        if until is not None:
            interrupt(run, until)
        with out_of_core(plan) as scanner:
            fitted = steps.fit(run, plan, scanner, silent)
            evaluation = steps.evaluate(run, plan, scanner, fitted)
        digests.append(evaluation.model.sha256)
        steps.publish(run, evaluation, f"run-{number}")
        left = files_below(tmp_path / "models" / "boxes" / CHECKPOINTS)
        assert left == {}
    assert digests[0] == digests[1]


@pytest.mark.usefixtures("_saves_always")
def test_a_refused_candidate_leaves_no_checkpoint(tmp_path):
    write_days(tmp_path, **DAYS)
    run = make_run(tmp_path, retrain__min_rows=10_000)
    plan = steps.inspect_input(run)
    with out_of_core(plan) as scanner:
        fitted = steps.fit(run, plan, scanner, silent)
        evaluation = steps.evaluate(run, plan, scanner, fitted)
    assert files_below(tmp_path / "models" / "boxes" / CHECKPOINTS) != {}
    steps.reject(run, evaluation, steps.decide(run, evaluation), "r1")
    assert files_below(tmp_path / "models" / "boxes" / CHECKPOINTS) == {}


@pytest.mark.usefixtures("_saves_always")
@pytest.mark.parametrize("change", ["tolerance", "seed", "components", "data"])
def test_a_checkpoint_of_other_data_or_configuration_is_not_used(tmp_path, change):
    write_days(tmp_path, **DAYS)
    interrupt(make_run(tmp_path, **SMALL), at_iteration(2))
    if change == "data":
        write_day(tmp_path, 2, shift=0.25, **DAYS)
    keys = {
        "tolerance": {"fit__tol": 1e-6},
        "seed": {"fit__random_state": 1},
        "components": {"model__n_components": 2},
        "data": {},
    }[change]
    changed = make_run(tmp_path, **(SMALL | keys))
    fitted, events = fit(changed)
    assert scans(events)[0] == "survey"
    (tmp_path / "models").rename(tmp_path / "gone")
    assert bits(fit(changed)[0]) == bits(fitted)


def forget_the_hints(path):
    with open_checkpoint(Registry(path.parents[3], "boxes"), path.parent.name) as opened:
        arrays, meta = opened.load()
        del meta["hints"]  # as an older gmm-dask saved it
        opened.save(arrays, meta)
    return (
        "is not the state of a fit of this version (KeyError: 'hints'); it is not used, "
        "the fit starts from the beginning"
    )


def damage_the_file(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return "is damaged (its sha256 does not fit); it is not used, the fit starts from the beginning"


def save_the_state_of_another_version(path):
    with open_checkpoint(Registry(path.parents[3], "boxes"), path.parent.name) as opened:
        arrays, meta = opened.load()
        del meta["survey"]["wanted"]
        opened.save(arrays, meta)
    return (
        "is not the state of a fit of this version (KeyError: 'wanted'); it is not used, "
        "the fit starts from the beginning"
    )


@pytest.mark.usefixtures("_saves_always")
@pytest.mark.parametrize(
    "damage", [damage_the_file, save_the_state_of_another_version, forget_the_hints]
)
def test_a_damaged_checkpoint_is_ignored_with_a_warning(tmp_path, caplog, damage):
    write_days(tmp_path, **DAYS)
    run = make_run(tmp_path, **SMALL)
    whole, _ = fit(run)
    path = tmp_path / "models" / "boxes" / CHECKPOINTS / whole.checkpoint_key / "state"
    warning = damage(path)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        again, events = fit(run)
    assert caplog.messages == [f"{path}: {warning}"]
    assert scans(events)[0] == "survey"
    assert bits(again) == bits(whole)


@pytest.mark.usefixtures("_saves_always")
def test_a_full_disk_stops_the_fit_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    write_days(tmp_path, **DAYS)
    run = make_run(tmp_path, **SMALL)
    whole, _ = fit(run)
    path = tmp_path / "models" / "boxes" / CHECKPOINTS / whole.checkpoint_key / "state"
    path.unlink()
    interrupt(run, at_iteration(1))
    before = path.read_bytes()

    def full(descriptor, block):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        saved = Checkpoint.save

        def save(self, arrays, meta):
            patched.setattr("gmm_dask.storage.files.atomic.write_all", full)
            saved(self, arrays, meta)

        patched.setattr(Checkpoint, "save", save)
        with pytest.raises(StorageError, match=r"state: cannot be written: no space is left"):
            fit(run)
    assert path.read_bytes() == before
    assert bits(fit(run)[0]) == bits(whole)


def test_the_same_fit_in_another_process_is_refused_before_anything_is_read(tmp_path):
    write_days(tmp_path, **DAYS)
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from tests.steps.test_fit_state import SMALL, at_stage, fit
        from tests.steps.tables import make_run

        def until(event):
            if at_stage("search")(event):
                print("searching", flush=True)
                sys.stdin.read()
            return False

        fit(make_run(Path(sys.argv[2]), **SMALL), until=until)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, Path(__file__).parents[2], tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "searching\n"
        events = []
        run = make_run(tmp_path, **SMALL)
        plan = steps.inspect_input(run)
        with (
            out_of_core(plan, events.append) as scanner,
            pytest.raises(
                StorageError,
                match=rf"of model boxes is in use by process {process.pid} on .*; wait until that "
                "run has ended, or stop it, then run again",
            ),
        ):
            steps.fit(run, plan, scanner, events.append)
        assert events == []
        process.stdin.close()
        assert process.wait() == 0


# What a checkpoint costs


def test_a_quick_fit_saves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 3600.0)
    saved = []
    monkeypatch.setattr(Checkpoint, "save", lambda self, *state: saved.append(state))
    write_days(tmp_path, **DAYS)
    fit(make_run(tmp_path, **SMALL))
    assert saved == []
    assert files_below(tmp_path / "models") == {}


def test_at_most_a_tenth_of_the_time_goes_into_saving(tmp_path, monkeypatch):
    clock = [0.0]

    class Slow:
        saves = 0

        def save(self, arrays, meta):
            clock[0] += 0.5
            self.saves += 1

    monkeypatch.setattr(steps.resuming.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(steps.resuming, "encode", lambda state: ({}, {}))
    slow = Slow()
    save = steps.resuming._Saver(slow, {}, silent)
    for _ in range(100):
        clock[0] += 0.9
        save(None)
    assert 90 / 6 <= slow.saves <= 90 / 5
