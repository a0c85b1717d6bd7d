"""Run files and cluster files: what they may say, checked before anything is read.

A run file says *what* to do (``[input] [model] [select] [fit] [retrain] [predict] [output]``), a
cluster file says *where*. A key has scikit-learn's name if it has one there. An unknown key is
refused, and the message gives its dotted path.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)

from gmm_dask import cluster_values
from gmm_dask.addresses import local_path
from gmm_dask.config_problems import describe_problem
from gmm_dask.errors import ConfigError
from gmm_dask.mixture.spec import (
    Cell,
    CovarianceName,
    CriterionName,
    EMOptions,
    InitializationName,
    MixtureSpec,
    make_cells,
)
from gmm_dask.nulls import NullPolicy

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Days = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A table of a file; it cannot be changed and has no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSection(Section):
    """``[input]``: the Parquet data and the columns to use."""

    path: str = Field(
        min_length=1, description="file, directory, glob or s3:// address of Parquet data"
    )
    columns: list[str] = Field(min_length=1, description="numeric columns, the features")
    nulls: NullPolicy = Field(
        NullPolicy.ERROR, description="what to do with rows that hold a null or NaN"
    )
    sample_weight: str | None = Field(None, description="column of weights ≥ 0")
    filter: str | None = Field(
        None, description="rows to use, as after SQL's WHERE: dt >= current_date - 30"
    )
    convert: dict[str, Literal["float", "seconds"]] = Field(
        default_factory=dict,
        description="columns to convert: decimals to 'float', dates and times to 'seconds'",
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
        EMOptions.tol, description="change of mean log-likelihood that ends the fit"
    )
    max_iter: Annotated[int, Field(ge=0)] = Field(
        EMOptions.max_iter, description="EM iterations over all rows"
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

    start: Literal["scratch", "current", "both"] = Field(
        "both", description="from a search, from the current model, or one candidate from each"
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

    @field_validator("select", mode="before")
    @classmethod
    def _is_a_rule(cls, rule: Any) -> Any:
        """Say in one sentence what pydantic would say of each alternative."""
        days = isinstance(rule, int | float) and not isinstance(rule, bool) and 0 < rule < inf
        if not days and rule not in ("never", "always"):
            raise ValueError(f"{rule!r}: give 'never', 'always' or a number of days above 0")
        return rule


class PredictSection(Section):
    """``[predict]``: what is written for each row, and when rows count as drifted."""

    key_columns: list[str] = Field(
        default_factory=list, description="input columns to copy to the predictions"
    )
    probabilities: bool = Field(False, description="also write the responsibilities")
    cluster: StrictBool | Positive = Field(
        False, description="also write the cluster: true for the suggested number of them, or 2, 3…"
    )
    on_drift: Literal["warn", "fail"] = Field(
        "warn", description="what to do where rows differ by more than the limits below"
    )
    max_log_likelihood_drop: NonNegative = Field(
        0.5, description="nats per row that the mean may lie below that of the training rows"
    )
    max_low_density_share: Rate = Field(
        0.01, description="share of rows that may lie below the model's low-density threshold"
    )
    max_occupancy_change: Rate = Field(
        0.2, description="total variation distance from the training occupancy, 0 to 1"
    )


class OutputSection(Section):
    """``[output]``: where models and predictions go."""

    models: str = Field("models", min_length=1, description="local directory of the model registry")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        max_length=128, description="name of the model in the registry"
    )
    predictions: str | None = Field(
        None, min_length=1, description="local directory of predictions"
    )

    @field_validator("models", "predictions")
    @classmethod
    def _is_local(cls, address: str | None) -> str | None:
        """Refuse what cannot be written to, before anything is read."""
        if address is not None:
            local_path(address)
        return address


class RunConfig(Section):
    """A run file."""

    input: InputSection
    model: ModelSection = ModelSection()
    select: SelectSection | None = None
    fit: FitSection = FitSection()
    retrain: RetrainSection = RetrainSection()
    predict: PredictSection = PredictSection()
    output: OutputSection

    @model_validator(mode="after")
    def _says_which_mixture(self) -> RunConfig:
        if self.model.n_components is None and self.select is None:
            raise ValueError("key model.n_components is missing")
        return self


class Deadlines(Section):
    """``[deadlines]`` of a cluster file: how long a run waits."""

    connect: Seconds = Field(30.0, description="seconds to wait for the first worker")
    no_progress: Seconds = Field(600.0, description="seconds to wait for the next group")
    worker_lost: Seconds = Field(60.0, description="seconds without a sign of any worker")


class ThreadsCluster(Section):
    """Threads of this process: the default."""

    kind: Literal["threads"] = "threads"
    threads: Positive | None = Field(None, description="default: the cores of this machine")
    deadlines: Deadlines = Deadlines()


class LocalProcesses(Section):
    """Worker processes on this machine."""

    kind: Literal["local"]
    workers: Positive = Field(2, description="processes to start")
    threads_per_worker: Positive = Field(1, description="threads of each")
    memory_limit: cluster_values.MemoryLimit = Field(
        "auto", description="of each worker, in Dask's notation: '4GiB'"
    )
    deadlines: Deadlines = Deadlines()


class TlsSection(Section):
    """``[tls]``: PEM files."""

    ca_file: cluster_values.Path = Field(description="certificate of the authority")
    cert: cluster_values.Path = Field(description="certificate of this client")
    key: cluster_values.Path = Field(description="private key of this client")


class RunningScheduler(Section):
    """A running ``dask scheduler``, by its address."""

    kind: Literal["address"]
    address: cluster_values.Address = Field(description="of the scheduler: tls://10.0.0.5:8786")
    tls: TlsSection | None = None
    allow_insecure: bool = Field(False, description="connect beyond loopback without TLS")
    allow_mixed: bool = Field(False, description="accept workers of other versions or CPUs")
    deadlines: Deadlines = Deadlines()


class SchedulerFile(Section):
    """A running ``dask scheduler``, by the file that it writes."""

    kind: Literal["scheduler_file"]
    path: cluster_values.Path = Field(description="the file, on a disk that both can read")
    tls: TlsSection | None = None
    allow_insecure: bool = Field(False, description="connect beyond loopback without TLS")
    allow_mixed: bool = Field(False, description="accept workers of other versions or CPUs")
    deadlines: Deadlines = Deadlines()


class SlurmJobs(Section):
    """Workers as Slurm jobs, through dask-jobqueue."""

    kind: Literal["slurm"]
    jobs: Positive = Field(description="jobs to submit, each one worker")
    cores: Positive = Field(description="cores of each job, and threads of its worker")
    memory: cluster_values.JobMemory = Field(description="of each job: '32GB'")
    queue: cluster_values.Queue | None = Field(None, description="partition; default: Slurm's")
    walltime: cluster_values.Walltime = Field("01:00:00", description="time limit of each job")
    interface: cluster_values.Interface | None = Field(
        None, description="network interface of the workers"
    )
    allow_insecure: bool = Field(False, description="let workers connect without TLS")
    allow_mixed: bool = Field(False, description="accept workers of other versions or CPUs")
    deadlines: Deadlines = Deadlines()


ClusterKind = ThreadsCluster | LocalProcesses | RunningScheduler | SchedulerFile | SlurmJobs


class ClusterConfig(Section):
    """A cluster file: a ``[cluster]`` table whose ``kind`` decides which keys it may have."""

    cluster: Annotated[ClusterKind, Field(discriminator="kind")] = ThreadsCluster()


Config = TypeVar("Config", bound=Section)


def read_config(kind: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a TOML file, with ``section.key=value`` overrides on top.

    The value of an override is read as TOML (``8``, ``true``, ``["a", "b"]``), or as a string if
    it is not TOML.

    Raises
    ------
    ConfigError
        The file is missing or is not TOML, a key is missing or unknown, or a value cannot be
        used; the message is one line that names the file and the dotted key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL character
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read ({reason}); give a TOML file") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    except RecursionError as error:
        raise _too_deep(path) from error
    for override in overrides:
        _set(tables, override)
    return check_config(kind, tables, str(path))


def check_config(kind: type[Config], tables: dict[str, Any], where: str) -> Config:
    """Check the tables of a file, which messages call ``where``.

    Raises
    ------
    ConfigError
        A key is missing or unknown, or a value cannot be used; the message is one line with the
        dotted path of every such key.
    """
    try:
        return kind.model_validate(tables)
    except ValidationError as error:
        try:
            problems = [describe_problem(detail, tables) for detail in error.errors()]
        except RecursionError:
            raise _too_deep(where) from None
        raise ConfigError(f"{where}: " + "; ".join(problems)) from error
    except RecursionError as error:
        raise _too_deep(where) from error


def _too_deep(where: str | Path) -> ConfigError:
    return ConfigError(
        f"{where}: is nested too deeply; no key needs more than arrays of arrays of arrays"
    )


def _set(tables: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or len(path) < 2 or not all(path):
        raise ConfigError(f"--set {override}: write section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except RecursionError as error:
        raise _too_deep(f"--set {key}") from error
    table = tables
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {part} is a value, not a section")
    table[path[-1]] = value
