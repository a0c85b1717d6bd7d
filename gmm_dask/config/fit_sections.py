"""What a run file says of the mixture and of its fit: ``[model] [select] [fit] [retrain]``."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from gmm_dask.config.section import Days, NonNegative, Positive, Section
from gmm_dask.mixture.spec import (
    Cell,
    CollapseName,
    CovarianceName,
    CriterionName,
    EMOptions,
    InitializationName,
    MixtureSpec,
    make_cells,
)


class ModelSection(Section):
    """``[model]``: the mixture."""

    n_components: Positive | None = Field(
        None, description="k, the number of Gaussians; needed unless [select] chooses it"
    )
    covariance_type: CovarianceName = Field("full", description="shape of the covariances")
    reg_covar: NonNegative = Field(
        MixtureSpec.reg_covar, description="added to the diagonal of covariances"
    )


class SelectSection(Section):
    """``[select]``: numbers of components and covariance types to choose from."""

    n_components: list[Positive] = Field(
        min_length=1,
        description="two numbers are the first and the last; one, or three and more, are a list",
    )
    covariance_types: list[CovarianceName] = Field(
        list(get_args(CovarianceName)), min_length=1, description="each with every number"
    )
    criterion: CriterionName = Field("bic", description="lower is better")
    allow_collapsed: bool = Field(
        False, description="whether a mixture with collapsed or starved components may be chosen"
    )

    @field_validator("n_components")
    @classmethod
    def _is_a_range(cls, numbers: list[int]) -> list[int]:
        if len(numbers) == 2 and numbers[0] > numbers[1]:
            raise ValueError(f"{numbers}: the first of two numbers is the least; swap them")
        return numbers

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every number of components with every covariance type."""
        numbers: Sequence[int] = self.n_components
        if len(numbers) == 2:
            numbers = range(numbers[0], numbers[1] + 1)
        return make_cells(numbers, self.covariance_types)


class FitSection(Section):
    """``[fit]``: how the parameters are found."""

    tol: NonNegative = Field(
        EMOptions.tol,
        description="change of mean log-likelihood, seen or foretold, that ends the fit",
    )
    max_iter: Annotated[int, Field(ge=0)] = Field(
        EMOptions.max_iter, description="EM iterations over all rows"
    )
    on_collapse: CollapseName = Field(
        "report",
        description="place a component that collapses or starves again, or only name it",
    )
    n_init: Positive = Field(1, description="candidates that are polished on all rows")
    init_params: InitializationName = Field(
        "kmeans", description="kind of the starts; under 'kmeans' a search mixes the kinds"
    )
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="seed of the sample and of every start"
    )
    search_rows: Positive | Literal["auto", "none"] = Field(
        "auto", description="rows sampled for the search; auto is max(65536, 50·k·d)"
    )
    weights_init: list[float] | None = Field(
        None, description="first weights: k numbers that sum to 1"
    )
    means_init: list[list[float]] | None = Field(
        None, description="first means: k lists of d numbers"
    )
    precisions_init: list[Any] | None = Field(
        None, description="first precisions, in the shape of the covariance type"
    )


class RetrainSection(Section):
    """``[retrain]``: where a retrain starts, and the gate that its candidate must pass."""

    start: Literal["scratch", "current", "both", "incremental"] = Field(
        "both",
        description="from a search, from the current model, or one candidate from each; "
        "'incremental' reads only files that are new or changed, and goes on from the sums kept "
        "of all others",
    )
    refresh: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.02,
        description="of an incremental night: share of the unchanged files, those read longest "
        "ago, that are read again",
    )
    full_every: Positive = Field(
        30,
        description="nights that may be incremental, one after the other; the next reads "
        "everything, and a search competes with the current model, as with 'both'",
    )
    select: Literal["never", "always"] | Days = Field(
        "never",
        description="with [select]: keep the current model's k and covariance type, choose again "
        "each time, or choose again when the last choice is that many days old",
    )
    require_converged: bool = Field(True, description="refuse a candidate that did not converge")
    allow_collapsed: bool = Field(
        False, description="accept collapsed and starved components in a candidate"
    )
    max_log_likelihood_drop: NonNegative = Field(
        0.05, description="nats per row that the candidate may lie below the current model"
    )
    min_rows: Positive = Field(1, description="used rows that a candidate needs")
    on_drift: Literal["warn", "refuse"] = Field(
        "warn",
        description="what to do with a candidate where the new rows differ from the current model "
        "by more than the limits of [predict]",
    )

    @field_validator("select", mode="before")
    @classmethod
    def _is_a_rule(cls, rule: Any) -> Any:
        """Say in one sentence what pydantic would say of each alternative."""
        days = isinstance(rule, int | float) and not isinstance(rule, bool) and 0 < rule < inf
        if not days and rule not in ("never", "always"):
            raise ValueError(f"{rule!r}: give 'never', 'always' or a number of days above 0")
        return rule
