"""What a run says while it goes on: log lines, and bars on a terminal."""

import io
import logging
import pickle

import pytest
from rich.console import Console

from gmm_dask.config import ThreadsCluster
from gmm_dask.errors import InputError, ModelError, StorageError
from gmm_dask.events import IterationFinished, Stage, StageAdvanced, StageFinished, StageStarted
from gmm_dask.pipelines import sequences
from gmm_dask.pipelines.exits import print_error
from gmm_dask.pipelines.rendering import Summary, markdown, print_summary
from gmm_dask.pipelines.watching.listening import audible
from gmm_dask.pipelines.watching.narration import Narrator
from gmm_dask.pipelines.watching.standing import Standing, duration, quantity, track
from gmm_dask.pipelines.watching.terminal import watch
from tests.pipelines.runs import read_run, write_run

SURVEY = StageStarted(Stage.SURVEY, 500_000_000, "rows")


def polish(iteration, seconds=0.5):
    return [
        StageStarted(Stage.POLISH, 500_000_000, "rows"),
        StageAdvanced(Stage.POLISH, 250_000_000),
        StageFinished(Stage.POLISH, seconds, "500,000,000 rows at 1 rows/s"),
        IterationFinished(iteration, -1.8123456, 1.25e-3, 1, 500_000_000, seconds),
    ]


RUN = [
    SURVEY,
    StageAdvanced(Stage.SURVEY, 125_000_000),
    StageFinished(Stage.SURVEY, 71.2, "500,000,000 rows, 3 dropped"),
    *polish(1),
    *polish(2),
]


def lines_of(events, every=30.0, **options):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    log = logging.getLogger("gmm_dask")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        notify = track(Narrator(every), **options)
        for event in events:
            notify(event)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    return stream.getvalue().splitlines()


EVIL = "a\x1b[2J\x07\r\u202eb"  # clears the screen, rings, goes back, turns the writing round
SHOWN = r"a\x1b[2J\x07\r\u202eb"


def test_names_of_the_data_give_the_terminal_no_orders():
    stream = io.StringIO()
    with watch(Console(file=stream, force_terminal=False)):
        logging.getLogger("gmm_dask").warning("column %s\nand more", EVIL)
        logging.getLogger("gmm_dask.storage").warning("column %s", EVIL)
    first, second = stream.getvalue().splitlines()
    assert first.endswith(f"column {SHOWN} and more")
    assert second.endswith(f"column {SHOWN}")


def test_every_handler_is_given_a_printable_text():
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    with audible() as logger, audible():
        logger.addHandler(handler)
        logger.warning("column %s", EVIL)
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == [f"column {SHOWN}"]
    assert logger.filters == []


def test_a_traceback_keeps_its_lines():
    stream = io.StringIO()
    with watch(Console(file=stream, force_terminal=False)):
        try:
            raise ValueError("no")
        except ValueError:
            logging.getLogger("gmm_dask").exception("failed")
    first, *_, last = stream.getvalue().splitlines()
    assert (first[-6:], last) == ("failed", "ValueError: no")


def test_an_error_is_one_printable_line(capsys):
    for error in (InputError(f"{EVIL}\n"), StorageError(EVIL), ModelError(f"{EVIL} \udcff")):
        assert SHOWN in str(error)
        assert str(error).isprintable()
        assert pickle.loads(pickle.dumps(error)).args == error.args
    print_error(EVIL)
    assert capsys.readouterr().err == f"gmm-dask: {SHOWN}\n"


def test_a_summary_shows_names_as_they_are(capsys):
    name = f"{EVIL}|<img src=x>[link](x) `c`"
    shown = name.replace(EVIL, SHOWN)
    summary = Summary(name, [(name, name)], [name], [[name]], [name])
    print_summary(summary)
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    assert printed.count(shown) == 6
    text = markdown(summary)
    assert text.count(r"\\x1b\[2J") == 6
    assert text.count(r"\|\<img src=x\>\[link\](x) \`c\`") == 6
    assert all(line.isprintable() for line in text.splitlines())


def test_each_stage_and_iteration_is_one_line():
    assert lines_of(RUN) == [
        "survey: 500,000,000 rows",
        "survey: 500,000,000 rows, 3 dropped (1 min 11 s)",
        "polish: 500,000,000 rows",
        "iteration 1: log-likelihood -1.81235 per row, change +0.0013, 1 G rows/s",
        "iteration 2: log-likelihood -1.81235 per row, change +0.0013, 1 G rows/s",
    ]


def test_a_long_stage_says_now_and_then_how_far_it_is():
    ticks = iter([0.0, 29.0, 31.0, 45.0, 62.0])
    steps = [StageAdvanced(Stage.SURVEY, done * 10**8) for done in (1, 2, 3, 4)]
    lines = lines_of([SURVEY, *steps], every=30.0, clock=lambda: next(ticks))
    assert lines[1:] == [
        "survey: 40% of 500,000,000 rows, 6.45 M rows/s, about 46 s left",
        "survey: 80% of 500,000,000 rows, 6.45 M rows/s, about 16 s left",
    ]


def test_without_a_total_only_what_is_done_is_told():
    standing = Standing().after(StageStarted(Stage.SEARCH, None, "runs"), 5.0)
    standing = standing.after(StageAdvanced(Stage.SEARCH, 1200), 8.0)
    assert standing.sentence() == "search: 1,200 runs after 3.0 s"
    assert standing.share == 0.0


def test_where_a_run_stands_follows_from_its_events():
    standing = Standing()
    assert (standing.sentence(), standing.share) == ("started", 0.0)
    seen = []
    for second, event in enumerate(RUN):
        standing = standing.after(event, float(second))
        seen.append((standing.stage.stage, standing.now - standing.since, standing.share))
    survey, first, second = seen[:3], seen[3:7], seen[7:]
    assert survey == [(Stage.SURVEY, 0, 0), (Stage.SURVEY, 1, 0.25), (Stage.SURVEY, 2, 1)]
    # An iteration is told after its scan, which is done.
    assert first == [(Stage.POLISH, *rest) for rest in ((0, 0), (1, 0.5), (2, 1), (3, 1))]
    assert second == first


def test_a_run_that_is_resumed_in_memory_tells_iterations_first():
    standing = Standing().after(polish(7)[-1], 1.0)
    assert standing.sentence().startswith("iteration 7: ")
    assert (standing.stage, standing.share) == (None, 0.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (260, "4 min 20 s"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_read_as_a_person_writes_them(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"), [(950, "950"), (12_345, "12.3 k"), (999_600, "1 M"), (4.2e9, "4.2 G")]
)
def test_quantities_have_three_digits(value, words):
    assert quantity(value) == words


def test_a_terminal_gets_bars_above_which_the_lines_scroll():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system="standard")
    with watch(console) as notify:
        for event in RUN:
            notify(event)
    shown = screen.getvalue()
    assert "━" in shown
    assert "iteration 2: log-likelihood -1.81235 per row" in shown


def test_a_pipe_gets_the_lines_and_no_bars():
    screen = io.StringIO()
    before = list(logging.getLogger("gmm_dask").handlers)
    with watch(Console(file=screen, force_terminal=False)) as notify:
        for event in RUN:
            notify(event)
    lines = screen.getvalue().splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == lines_of(RUN)
    assert logging.getLogger("gmm_dask").handlers == before


def test_a_fit_and_a_prediction_go_through_every_stage_in_order(tmp_path):
    events = []
    # Of 3,000 rows. A fit that max_iter stops is evaluated in a scan of its own.
    run = read_run(write_run(tmp_path), "fit.search_rows=2500", "fit.max_iter=1")
    for sequence in (sequences.fit, sequences.predict):
        sequence(run, ThreadsCluster(), sequences.directly, events.append, "direct")
    stages = [event.stage for event in events if isinstance(event, StageStarted | StageFinished)]
    assert list(dict.fromkeys(stages)) == list(Stage)
    assert {type(stage) for stage in stages} == {Stage}
