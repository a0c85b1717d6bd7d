"""What a run file cannot be, in one line that names it; a byte order mark does no harm."""

import pytest

from gmm_dask.config import RunConfig, check_config, read_config
from gmm_dask.errors import ConfigError

RUN = """
[input]
path = "data"
columns = ["größe"]

[model]
n_components = 2

[output]
name = "stars"
"""
DEEP = "[" * 900 + "]" * 900


def refused(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        read_config(RunConfig, path, overrides)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_a_byte_order_mark_is_skipped(tmp_path):
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "run.toml").write_text(RUN, encoding=encoding)
        assert read_config(RunConfig, tmp_path / "run.toml").input.columns == ["größe"]


def test_other_encodings_are_refused_with_a_hint(tmp_path):
    (tmp_path / "run.toml").write_text(RUN, encoding="utf-16")
    assert refused(tmp_path / "run.toml").endswith("run.toml: is not UTF-8 text; save it as UTF-8")


@pytest.mark.parametrize(
    "text",
    [
        RUN + f"[fit]\nmeans_init = {DEEP}\n",
        RUN.replace('"data"', DEEP),
        RUN.replace('"data"', "[" * 180 + "]" * 180) + "[" + "a." * 900 + "a]\n",
    ],
    ids=["an array", "in the place of a text", "tables"],
)
def test_what_is_nested_deeply_is_refused(tmp_path, text):
    (tmp_path / "run.toml").write_text(text)
    assert refused(tmp_path / "run.toml").startswith(f"{tmp_path}/run.toml: ")


def test_an_override_that_is_nested_deeply_is_refused(tmp_path):
    (tmp_path / "run.toml").write_text(RUN)
    message = refused(tmp_path / "run.toml", f"fit.means_init={DEEP}")
    assert message == (
        "--set fit.means_init: is nested too deeply; "
        "no key needs more than arrays of arrays of arrays"
    )


def test_a_path_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path in ("x" * 256, "a\0b", tmp_path / "loop", tmp_path):
        assert "cannot be read (" in refused(path)


def test_a_name_that_could_not_be_published_is_refused(tmp_path):
    """The registry would refuse it when the fit is done."""
    (tmp_path / "run.toml").write_text(RUN)
    assert "output.name = " in refused(tmp_path / "run.toml", f"output.name={'x' * 129}")
    read_config(RunConfig, tmp_path / "run.toml", [f"output.name={'x' * 128}"])


def test_the_alternatives_of_a_value_are_no_keys():
    tables = {"input": {"path": "x", "columns": ["a"]}, "predict": {"cluster": "yes"}}
    with pytest.raises(ConfigError) as caught:
        check_config(RunConfig, tables, "run.toml")
    message = str(caught.value)
    assert "predict.cluster = 'yes': input should be a valid boolean" in message
    assert "predict.cluster = 'yes': input should be a valid integer" in message
    assert "key output is missing" in message


def test_every_row_is_predicted_by_a_filter_that_is_true(tmp_path):
    (tmp_path / "run.toml").write_text(RUN)
    for override in ("predict.filter=true", 'predict.filter="true"'):
        assert read_config(RunConfig, tmp_path / "run.toml", [override]).predict.filter == "true"
    assert "predict.filter = False: input" in refused(tmp_path / "run.toml", "predict.filter=false")


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("30", "output.keep = 30: is a table of keys, not a value"),
        ("{}", "output.keep = {}: say how many versions to keep, for how many days, or both"),
        ("{days = 0}", "output.keep.days = 0: input should be greater than 0"),
        ("{version = 3}", "unknown key output.keep.version"),
    ],
)
def test_what_is_to_be_kept_is_said_in_full(tmp_path, keep, message):
    (tmp_path / "run.toml").write_text(RUN)
    assert refused(tmp_path / "run.toml", f"output.keep={keep}").endswith(message)
