"""A hyperparameter has one name and one default in the estimator, in run files and in a fit."""

import inspect
from dataclasses import fields
from typing import get_args

import pytest
from pydantic import ValidationError

from gmm_dask import GaussianMixture
from gmm_dask.chunked.fit_records import FitOptions
from gmm_dask.config import FitSection, InputSection, LabelsSection, ModelSection
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.initialization import INITIALIZATIONS
from gmm_dask.mixture.spec import (
    COVARIANCE_NAMES,
    INITIALIZATION_NAMES,
    CovarianceName,
    EMOptions,
    InitializationName,
    MixtureSpec,
    Start,
)

#: Where each hyperparameter is written down: (record, field of it).
HOMES = {
    "n_components": (MixtureSpec, "n_components"),
    "covariance_type": (MixtureSpec, "covariance_type"),
    "reg_covar": (MixtureSpec, "reg_covar"),
    "init_params": (Start, "init_params"),
    "weights_init": (Start, "weights"),
    "means_init": (Start, "means"),
    "precisions_init": (Start, "precisions"),
    "tol": (EMOptions, "tol"),
    "max_iter": (EMOptions, "max_iter"),
    "on_collapse": (EMOptions, "on_collapse"),
    "n_init": (FitOptions, "n_init"),
    "random_state": (FitOptions, "random_state"),
    "search_rows": (FitOptions, "search_rows"),
}
#: Keywords of scikit-learn's estimator that a run file has no use for; nulls is in its [input].
ESTIMATOR_ONLY = {"warm_start", "verbose", "verbose_interval", "nulls"}
#: Keywords that a run file has in [labels], beside the column.
OF_LABELS = {"components_per_label": "components", "least_label_weight": "least_weight"}
#: Keywords that a run file has in [input], where the columns are.
OF_INPUT = {"transforms": "transform"}
#: Where a default differs, and why.
DIFFERENT = {
    "n_components": "a run file must state it",
    "random_state": "None draws a seed, as in scikit-learn; a run file fixes it",
}

ESTIMATOR = inspect.signature(GaussianMixture).parameters
RUN_FILE = {**ModelSection.model_fields, **FitSection.model_fields}


def test_the_estimator_and_run_files_have_the_same_hyperparameters():
    assert set(ESTIMATOR) - ESTIMATOR_ONLY - set(OF_INPUT) - set(OF_LABELS) == set(HOMES)
    assert set(OF_LABELS.values()) <= set(LabelsSection.model_fields)
    assert set(OF_INPUT.values()) <= set(InputSection.model_fields)
    assert set(RUN_FILE) == set(HOMES)


def test_every_field_of_a_fit_is_a_hyperparameter():
    known = {(record, field) for record, field in HOMES.values()}
    for record in (MixtureSpec, Start, EMOptions):
        record_fields = {(record, field.name) for field in fields(record)}
        assert record_fields - {(MixtureSpec, "start")} <= known


@pytest.mark.parametrize("name", [name for name in HOMES if name not in DIFFERENT])
def test_defaults_agree(name):
    record, field = HOMES[name]
    (default,) = (item.default for item in fields(record) if item.name == field)
    assert ESTIMATOR[name].default == default
    assert RUN_FILE[name].default == default


@pytest.mark.parametrize(
    ("names", "literal", "registry"),
    [
        (COVARIANCE_NAMES, CovarianceName, COVARIANCE_TYPES),
        (INITIALIZATION_NAMES, InitializationName, INITIALIZATIONS),
    ],
)
def test_every_name_has_an_implementation(names, literal, registry):
    assert set(names) == set(get_args(literal)) == set(registry)


@pytest.mark.parametrize(
    ("section", "key", "names"),
    [
        (ModelSection, "covariance_type", COVARIANCE_NAMES),
        (FitSection, "init_params", INITIALIZATION_NAMES),
    ],
)
def test_run_files_and_the_estimator_take_the_same_names(section, key, names):
    rest = {"n_components": 1} if section is ModelSection else {}
    for name in names:
        assert getattr(section(**rest, **{key: name}), key) == name
    with pytest.raises(ValidationError):
        section(**rest, **{key: "round"})
    (allowed,) = GaussianMixture._parameter_constraints[key]
    assert allowed.options == set(names)
