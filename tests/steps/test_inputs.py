"""Bad input is refused in one line that names place and remedy, and leaves nothing behind."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import steps
from gmm_dask.errors import (
    ConfigError,
    GmmDaskError,
    InputError,
    ModelError,
    NonFiniteError,
    SchemaError,
    StorageError,
    TooFewRowsError,
)
from gmm_dask.storage.input.plan import InputPlan, plan_input
from tests.steps.tables import (
    files_below,
    make_run,
    model_files,
    run_fit,
    run_predict,
    write_day,
    write_days,
)


def entries(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def replace_column(path, name, values):
    table = pq.read_table(path, partitioning=None)
    index = table.column_names.index(name)
    pq.write_table(table.set_column(index, name, pa.array(values)), path)


def with_value(path, name, row, value):
    values = pq.read_table(path, partitioning=None)[name].to_pylist()
    values[row] = value
    replace_column(path, name, values)


def missing_input(root):
    return make_run(root, input__path=str(root / "inptu"))


def empty_directory(root):
    (root / "empty").mkdir()
    return make_run(root, input__path=str(root / "empty"))


def no_rows(root):
    for day in (1, 2, 3):
        write_day(root, day, rows=0)
    return make_run(root)


def unknown_column(root):
    return make_run(root, input__columns=["height", "witdh"])


def text_column(root):
    replace_column(root / "input/day=2/part.parquet", "width", ["wide"] * 500)
    return make_run(root)


def column_twice(root):
    return make_run(root, input__columns=["height", "height"])


def fewer_rows_than_components(root):
    return make_run(root, model__n_components=1501)


def all_null(root):
    for day in (1, 2, 3):
        replace_column(root / f"input/day={day}/part.parquet", "width", pa.nulls(500, pa.float64()))
    return make_run(root)


def models_in_the_input(root):
    return make_run(root, output__models=str(root / "input" / "models"))


def predictions_over_the_input(root):
    return make_run(root, output__predictions=str(root / "input" / ".." / "input"))


def predictions_over_the_input_by_a_link(root):
    (root / "elsewhere").symlink_to(root)
    return make_run(root, output__predictions=str(root / "elsewhere" / "input" / "out"))


def models_is_a_file(root):
    (root / "models").write_text("notes")
    return make_run(root)


def predictions_below_a_file(root):
    (root / "notes").write_text("notes")
    return make_run(root, output__predictions=str(root / "notes" / "predictions"))


def predictions_is_a_directory(root):
    (root / "predictions").mkdir()
    return make_run(root)


def ragged_means(root):
    return make_run(root, fit__means_init=[[0.0, 0.0], [1.0], [2.0, 2.0]])


def means_of_other_shape(root):
    return make_run(root, fit__means_init=[[0.0, 0.0], [1.0, 1.0]])


def weights_that_are_not_shares(root):
    return make_run(root, fit__weights_init=[0.5, 0.5, 0.5])


def precisions_in_words(root):
    return make_run(root, fit__precisions_init=["high", "higher", "highest"])


# Refused from configuration and footers: not even a directory is created.
BEFORE_READING = {
    missing_input: (InputError, "inptu: no such file or directory; did you mean"),
    empty_directory: (InputError, "empty: "),
    no_rows: (TooFewRowsError, "input: 3 file(s), but not one row; is the writer finished?"),
    unknown_column: (
        SchemaError,
        "day=1/part.parquet: has no column 'witdh'; did you mean 'width'?",
    ),
    text_column: (SchemaError, "day=2/part.parquet: column 'width'"),
    column_twice: (ConfigError, "input.columns names 'height' twice; name each column once"),
    fewer_rows_than_components: (
        TooFewRowsError,
        "input: 1,500 rows are too few for model.n_components = 1501; fit fewer components",
    ),
    models_in_the_input: (ConfigError, "it lies in the input; choose an output beside the input"),
    predictions_over_the_input: (ConfigError, "overlap: "),
    predictions_over_the_input_by_a_link: (ConfigError, "it lies in the input"),
    models_is_a_file: (StorageError, "models: cannot be written: it is a file, not a directory"),
    predictions_below_a_file: (StorageError, "notes: cannot be written: it is a file"),
    predictions_is_a_directory: (
        StorageError,
        "predictions: is a directory that gmm-dask did not write; move it away",
    ),
    ragged_means: (ConfigError, "fit.means_init is not an array of numbers"),
    means_of_other_shape: (
        ConfigError,
        "'means_init' should have the shape of (3, 2), but got (2, 2)",
    ),
    weights_that_are_not_shares: (ConfigError, "'weights_init' should be normalized"),
    precisions_in_words: (ConfigError, "fit.precisions_init is not an array of numbers"),
}


@pytest.mark.parametrize("spoil", BEFORE_READING, ids=lambda spoil: spoil.__name__)
def test_what_configuration_and_footers_show_is_refused_before_anything_is_created(tmp_path, spoil):
    write_days(tmp_path)
    run = spoil(tmp_path)
    before = entries(tmp_path)
    kind, message = BEFORE_READING[spoil]
    with pytest.raises(kind) as caught:
        run_fit(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert entries(tmp_path) == before


def null_as_an_error(root):
    return make_run(root, input__nulls="error")


def nan_as_an_error(root):
    write_days(root, nulls=False)
    with_value(root / "input/day=2/part.parquet", "width", 41, np.nan)
    return make_run(root, input__nulls="error")


def infinity(root):
    with_value(root / "input/day=3/part.parquet", "width", 17, -np.inf)
    return make_run(root)


def two_infinities(root):
    with_value(root / "input/day=3/part.parquet", "width", 17, -np.inf)
    with_value(root / "input/day=3/part.parquet", "width", 18, np.inf)
    return make_run(root)


def too_few_complete_rows(root):
    for day in (1, 2, 3):
        replace_column(root / f"input/day={day}/part.parquet", "width", [1.0 * day] + [None] * 499)
    return make_run(root, model__n_components=4)


def never_complete(root):
    for day in (1, 2, 3):
        replace_column(
            root / f"input/day={day}/part.parquet",
            "width",
            pa.array(np.ones(500), mask=np.arange(500) % 50 != 7),
        )
    return make_run(root)


def negative_weight(root):
    with_value(root / "input/day=1/part.parquet", "share", 3, -1.0)
    return make_run(root, input__sample_weight="share")


def no_weight(root):
    with_value(root / "input/day=1/part.parquet", "share", 3, None)
    return make_run(root, input__sample_weight="share")


def weights_of_nothing(root):
    for day in (1, 2, 3):
        replace_column(root / f"input/day={day}/part.parquet", "share", np.zeros(500))
    return make_run(root, input__sample_weight="share")


def two_rows_that_count(root):
    for day in (1, 2, 3):
        replace_column(
            root / f"input/day={day}/part.parquet", "share", 1.0 * (np.arange(500) == 100 * day)
        )
    with_value(root / "input/day=3/part.parquet", "share", 300, 0.0)
    return make_run(root, input__sample_weight="share")


# Refused by the survey, which reads the rows first.
BY_THE_SURVEY = {
    null_as_an_error: (
        NonFiniteError,
        "column 'height' holds 30 nulls or NaN, the first at day=1/part.parquet row 7; "
        "leave such rows out (with nulls = 'drop' in a run file or in read_parquet)",
    ),
    nan_as_an_error: (
        NonFiniteError,
        "column 'width' holds 1 null or NaN, the first at day=2/part.parquet row 41",
    ),
    infinity: (
        NonFiniteError,
        "column 'width' holds 1 infinite value, the first at day=3/part.parquet row 17; remove",
    ),
    two_infinities: (NonFiniteError, "holds 2 infinite values, the first at day=3/part.parquet"),
    too_few_complete_rows: (TooFewRowsError, "n_components = 4, n_samples = 3; fit fewer"),
    all_null: (
        TooFewRowsError,
        "no complete row in 1,500: column 'width' holds nothing but nulls, the first at "
        "day=1/part.parquet row 0; leave it out",
    ),
    never_complete: (
        TooFewRowsError,
        "1,500: every row has a null, the first at day=1/part.parquet row",
    ),
    negative_weight: (
        InputError,
        "sample_weight: 1 weight is negative, infinite or above 1e+140, the first at "
        "day=1/part.parquet row 3; weights must be ≥ 0",
    ),
    no_weight: (
        NonFiniteError,
        "sample_weight: 1 weight is null or NaN, the first at day=1/part.parquet row 3; fill",
    ),
    two_rows_that_count: (
        TooFewRowsError,
        "only 2 of 1,470 sampled rows have a weight above 0, for n_components = 3; fit fewer",
    ),
    weights_of_nothing: (
        InputError,
        "sample_weight: all weights are 0; at least one must be above 0",
    ),
}


@pytest.mark.parametrize("spoil", BY_THE_SURVEY, ids=lambda spoil: spoil.__name__)
def test_what_the_survey_finds_is_refused_and_leaves_no_file(tmp_path, spoil):
    write_days(tmp_path)
    run = spoil(tmp_path)
    before = files_below(tmp_path)
    kind, message = BY_THE_SURVEY[spoil]
    with pytest.raises(kind) as caught:
        run_fit(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == before


def columns_in_another_order(root):
    return make_run(root, input__columns=["width", "height"])


def other_columns(root):
    return make_run(root, input__columns=["height", "share"])


def no_such_model(root):
    return make_run(root, output__name="bxoes")


def damaged_model(root):
    path = root / "models/boxes/v000001/parameters.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return make_run(root)


def no_predictions_output(root):
    return make_run(root, output__predictions=None)


def unknown_key(root):
    return make_run(root, predict__key_columns=["nubmer"])


def reserved_key(root):
    return make_run(root, predict__key_columns=["row"])


def null_in_a_batch(root):
    return make_run(root, input__nulls="error")


def infinity_in_a_batch(root):
    with_value(root / "input/day=2/part.parquet", "width", 60, np.inf)
    return make_run(root)


def infinities_that_cancel(root):
    write_day(root, 3, nulls=False)
    with_value(root / "input/day=3/part.parquet", "width", 60, np.inf)
    with_value(root / "input/day=3/part.parquet", "height", 61, -np.inf)
    return make_run(root)


def large_weight_in_a_batch(root):
    with_value(root / "input/day=2/part.parquet", "share", 60, 1e308)
    return make_run(root, input__sample_weight="share")


AT_PREDICTION = {
    columns_in_another_order: (
        ModelError,
        "model boxes was fitted to columns height, width, but input.columns are width, height; "
        "name the same columns in the same order",
    ),
    other_columns: (ModelError, "was fitted to columns height, width, but input.columns are"),
    no_such_model: (ModelError, "models: has no model 'bxoes'; models in"),
    damaged_model: (ModelError, "parameters.safetensors: is damaged"),
    no_predictions_output: (ConfigError, "output.predictions is missing: say where"),
    unknown_key: (ConfigError, "predict.key_columns: 'nubmer' is not a column that all input"),
    reserved_key: (
        ConfigError,
        "predict.key_columns: 'row' is the name of a column of the predictions",
    ),
    null_in_a_batch: (
        NonFiniteError,
        "column 'height' holds 10 nulls or NaN, the first at day=1/part.parquet row 7; leave "
        "such rows out",
    ),
    # A row with a null lies before it, and counts: the number is that in the file.
    infinity_in_a_batch: (
        NonFiniteError,
        "column 'width' holds 1 infinite value, the first at day=2/part.parquet row 60; remove or "
        "replace it",
    ),
    infinities_that_cancel: (
        NonFiniteError,
        "column 'height' holds 1 infinite value, the first at day=3/part.parquet row 61",
    ),
    large_weight_in_a_batch: (
        InputError,
        "sample_weight: 1 weight is negative, infinite or above 1e+140, the first at "
        "day=2/part.parquet row 60; weights must be ≥ 0",
    ),
}


@pytest.mark.parametrize("spoil", AT_PREDICTION, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_predicted_is_refused_and_leaves_nothing(tmp_path, spoil):
    write_days(tmp_path)
    run_fit(make_run(tmp_path))
    run = spoil(tmp_path)
    before, files = entries(tmp_path), files_below(tmp_path)
    kind, message = AT_PREDICTION[spoil]
    with pytest.raises(kind) as caught:
        run_predict(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert entries(tmp_path) == before
    assert files_below(tmp_path) == files


def test_an_unknown_key_is_named_with_its_path(tmp_path):
    with pytest.raises(ConfigError, match=r"^run\.toml: unknown key input\.colums$"):
        make_run(tmp_path, input__colums=["a"])


def test_a_prediction_takes_fewer_rows_than_components_and_a_registry_it_cannot_write(
    tmp_path, monkeypatch
):
    write_days(tmp_path)
    run = make_run(tmp_path)
    run_fit(run)
    for day in (1, 2, 3):
        (tmp_path / f"input/day={day}/part.parquet").unlink()
    write_day(tmp_path, 4, rows=2)
    checked = []
    monkeypatch.setattr(steps.inputs, "check_output", checked.append)
    assert run_predict(run)[1] == 2
    assert checked == [tmp_path]


def test_the_input_plan_is_stored_and_reads_back(tmp_path):
    import json

    write_days(tmp_path)
    run = make_run(tmp_path)
    fitted = run_fit(run)
    content = json.loads((fitted.published.path / "input_plan.json").read_bytes())
    assert InputPlan.from_json(content) == plan_input(run.input) == fitted.plan
    assert InputPlan.from_json(content).digest == fitted.manifest.snapshot


def test_every_refusal_is_one_of_our_errors():
    for table in (BEFORE_READING, BY_THE_SURVEY, AT_PREDICTION):
        for kind, _ in table.values():
            assert issubclass(kind, GmmDaskError)


def test_moved_data_is_the_same_fit(tmp_path):
    write_days(tmp_path)
    first = run_fit(make_run(tmp_path))
    (tmp_path / "input").rename(tmp_path / "moved")
    second = run_fit(make_run(tmp_path, input__path=str(tmp_path / "moved")), "fit-2")
    assert second.manifest.fit_key == first.manifest.fit_key
    files = [model_files(fitted.published.path) for fitted in (first, second)]
    assert files[0]["parameters.safetensors"] == files[1]["parameters.safetensors"]
