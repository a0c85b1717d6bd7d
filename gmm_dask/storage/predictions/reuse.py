"""What of the current version goes into the next one, for each input file.

=================================  =================================================================
a file of the input                its predictions
=================================  =================================================================
inside the filter, unchanged,      *reused*: linked, and not read
and its parts answer the question
inside, any other                  predicted; rows outside the filter are *kept* beside the new ones
                                   if the file is unchanged
outside, unchanged                 *kept*: linked, and not read
outside, changed                   lost, with a warning: they describe values that are gone
no longer in the input             lost
=================================  =================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gmm_dask.errors import ConfigError
from gmm_dask.storage.files.sealed import plain
from gmm_dask.storage.input.filters.predicate import text_of
from gmm_dask.storage.input.input_file import InputFile
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.predictions.dataset import Origin, Predictions
from gmm_dask.storage.predictions.held import (
    Held,
    described_groups,
    held_by,
    unchanged,
)
from gmm_dask.storage.predictions.part_files import MODEL_VERSION
from gmm_dask.storage.predictions.verification import first_fault, intact

logger = logging.getLogger(__name__)

Refresh = Literal["changed", "all"]


@dataclass(frozen=True)
class Question:
    """What is asked of each row now, and when an earlier answer to it still counts.

    Attributes
    ----------
    origin
        Of the parts that are written now.
    columns
        Names of the columns of these parts, with the keys.
    refresh
        Whether only the parts of this very model count ("all"), or also those of its earlier
        versions ("changed").
    """

    origin: Origin
    columns: tuple[str, ...]
    refresh: Refresh = "all"

    def is_answered(self, earlier: Origin) -> bool:
        """Whether a part of another origin need not be predicted again."""
        asked, before = plain(self.origin.settings), dict(earlier.settings)
        if earlier.model["sha256"] == self.origin.model["sha256"]:
            return bool(before == asked)
        if self.refresh == "all" or self.hindrance(earlier, self.columns) is not None:
            return False
        # Each model cuts its clusters by itself.
        return {**before, "cluster_ids": None} == {**asked, "cluster_ids": None}

    def hindrance(self, earlier: Origin, columns: Sequence[str]) -> str | None:
        """Say why a part of another origin cannot stay beside those written now; None if it can.

        Parameters
        ----------
        columns
            The columns of that part.
        """
        name = self.origin.model["name"]
        if earlier.model["name"] != name:
            return (
                f"model {earlier.model['name']} made them, and component ids of model {name} mean "
                "other components"
            )
        keys = earlier.settings["key_columns"]
        if keys != plain(self.origin.settings)["key_columns"]:
            words = ", ".join(f"{key} ({kind})" for key, kind in keys)
            return f"their predict.key_columns are {words or 'none'}"
        for ours, theirs, word in (
            (columns, self.columns, "they alone have"),
            (self.columns, columns, "they lack"),
        ):
            other = [column for column in ours if column not in (*theirs, MODEL_VERSION)]
            if other:
                return f"{word} the column {other[0]}"
        return self._other_clusters(earlier)

    def _other_clusters(self, earlier: Origin) -> str | None:
        ids = "cluster_ids"
        if earlier.settings.get(ids) == plain(self.origin.settings).get(ids):
            return None
        # A model's version says which cut it is, if the same number was asked for; True is not 1.
        same = repr(earlier.cluster) == repr(self.origin.cluster)
        if same and earlier.model["sha256"] != self.origin.model["sha256"]:
            return None
        return "their clusters are " + (
            "cut in another way"
            if earlier.cluster is None
            else f"those of predict.cluster = {str(earlier.cluster).lower()}"
        )


@dataclass(frozen=True)
class Carried:
    """What goes into the next version, by input file.

    Attributes
    ----------
    reused
        Files inside the filter that are not predicted again.
    kept
        Files outside the filter.
    beside
        Files that are predicted, and of which rows outside the filter are kept.
    lost
        Files outside the filter, or with rows outside, whose predictions cannot be kept.
    complete
        Whether the parts of a file have the column ``model_version``.
    """

    reused: Mapping[str, Held] = field(default_factory=dict)
    kept: Mapping[str, Held] = field(default_factory=dict)
    beside: Mapping[str, Held] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    complete: Mapping[str, bool] = field(default_factory=dict)


def carry_over(
    current: Predictions, plan: InputPlan, question: Question, key_columns: Sequence[str]
) -> Carried:
    """Decide for each input file what of the current version goes into the next one.

    Reads the footers of the parts that could be taken, and the whole of each input file or part
    whose hint has changed.

    Raises
    ------
    ConfigError
        Predictions outside the filter cannot stay beside new ones; the message says why.
    InputError
        An input file whose hint has changed cannot be read.
    """
    survey = _Survey(current, plan, question)
    candidates = survey.reusable | survey.outside | survey.partly_outside
    # Parts first: if a file's parts are lost, its digest need not be computed.
    columns = intact(
        current.path, [part for path in candidates for part in survey.held[path].parts]
    )
    whole = {
        path: held
        for path, held in survey.held.items()
        if path in candidates and all(part.name in columns for part in held.parts)
    }
    same = unchanged(plan, whole, key_columns)
    reused = {
        path: held
        for path, held in same.items()
        if path in survey.reusable and survey.problem_of(held, columns) is None
    }
    kept = {path: held for path, held in same.items() if path in survey.outside}
    beside = {
        path: held
        for path, held in same.items()
        if path in survey.partly_outside and path not in reused
    }
    survey.refuse_others({**kept, **beside}, columns)
    lost = tuple(sorted((survey.outside | survey.partly_outside) - same.keys()))
    _tell(lost, survey.gone)
    complete = {
        path: all(MODEL_VERSION in columns[part.name] for part in held.parts)
        for path, held in same.items()
    }
    return Carried(reused, kept, beside, lost, complete)


def _tell(lost: Sequence[str], gone: Sequence[str]) -> None:
    if lost:
        logger.warning(
            "predictions of rows outside the filter are lost for %d input file(s), the first of "
            "them %s: the files have changed since, or their parts are damaged; set "
            'predict.filter = "true" once to have every row predicted',
            len(lost),
            lost[0],
        )
    if gone:
        logger.info(
            "predictions of %d file(s) that are no longer in the input are left out, the first of "
            "them %s",
            len(gone),
            gone[0],
        )


class _Survey:
    """The files of the current version, sorted by where they lie to the filter of a plan.

    Attributes
    ----------
    held
        What is held of each, by path.
    reusable
        Inside, and their parts are answers to the question, if they are still right.
    outside
        Outside, and still in the input.
    partly_outside
        Inside, with parts that may describe rows outside.
    gone
        No longer in the input.
    """

    def __init__(self, current: Predictions, plan: InputPlan, question: Question) -> None:
        self.held = held_by(current)
        self._origins = current.origins
        self._question = question
        self._answered = [question.is_answered(origin) for origin in current.origins]
        self.outside = {path for path in plan.outside if path in self.held}
        inside = [file for file in plan.files if file.path in self.held]
        self.reusable = {file.path for file in inside if self._is_reusable(plan, file)}
        self.partly_outside = {
            file.path for file in inside if _is_partly_outside(plan, file, self.held[file.path])
        }
        in_input = self.outside | {file.path for file in inside}
        self.gone = sorted(self.held.keys() - in_input)

    def _is_reusable(self, plan: InputPlan, file: InputFile) -> bool:
        held = self.held[file.path]
        if not _asked_for(plan, file, held):
            return False
        if first_fault(file, held.parts, exactly=False) is not None:
            return False
        read = {index for index, _ in file.groups}
        return all(
            self._answered[part.origins[0]]
            for part in held.parts
            if read & set(described_groups(file, [part]))
        )

    def problem_of(self, held: Held, columns: Mapping[str, Sequence[str]]) -> str | None:
        """Say why the parts of a file cannot stay beside those written now; None if they can."""
        origins = sorted(held.origins)
        of_file = columns[held.parts[0].name]
        problems = (self._question.hindrance(self._origins[origin], of_file) for origin in origins)
        return next((problem for problem in problems if problem is not None), None)

    def refuse_others(self, held: Mapping[str, Held], columns: Mapping[str, Sequence[str]]) -> None:
        """Refuse what cannot stay beside the parts that are written now.

        Raises
        ------
        ConfigError
            The message names the first such file, how many there are, and what to do.
        """
        problems = {path: self.problem_of(parts, columns) for path, parts in held.items()}
        refused = sorted(path for path, problem in problems.items() if problem is not None)
        if refused:
            raise ConfigError(
                f"predictions outside the filter cannot stay beside new ones for {len(refused)} "
                f"input file(s), the first of them {refused[0]}: {problems[refused[0]]}; predict "
                'every row with predict.filter = "true", or give another output.predictions'
            )


def widened(file: InputFile, held: Held) -> InputFile:
    """Return a file with the row groups that its parts describe beside those that are read.

    Rows of these are kept, so they are read and held to the filter.
    """
    read = {index for index, _ in file.groups}
    described = set(described_groups(file, held.parts))
    if described <= read:
        return file
    return replace(file, left=tuple(sorted(read | described)), inside=False)


def _residual(plan: InputPlan, file: InputFile) -> str | None:
    residual = plan.residual(file)
    return None if residual is None else text_of(residual)


def _asked_for(plan: InputPlan, file: InputFile, held: Held) -> bool:
    """Whether a file was asked for the rows that are inside the filter now, or for all."""
    return (
        held.residual is None
        or held.residual == _residual(plan, file)
        or held.residual == _residual(plan, widened(file, held))
    )


def _is_partly_outside(plan: InputPlan, file: InputFile, held: Held) -> bool:
    """Whether the parts of a file inside may describe rows outside the filter."""
    if widened(file, held) != file:
        return True
    residual = _residual(plan, file)
    return residual is not None and (held.residual != residual or len(held.origins) > 1)
