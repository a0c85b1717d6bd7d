"""The state of a fit as arrays and JSON for its checkpoint, and back, bit for bit.

Every float is in an array, because JSON cannot express infinity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import NamedArrays
from gmm_dask.chunked.defects import Defects
from gmm_dask.chunked.draw import Draw
from gmm_dask.chunked.fit_records import CellSearch, FitState
from gmm_dask.chunked.label_survey import LABEL_ROWS, LabelSurvey
from gmm_dask.chunked.moments import Moments
from gmm_dask.chunked.replay import Frame
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.mixture.em import Candidate, EMState, Ending, Status
from gmm_dask.mixture.iterations import Iteration
from gmm_dask.mixture.labels import Ownership
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchSummary
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.storage.models.density_state import decode_densities, encode_densities

Meta = dict[str, Any]

_PARAMETERS = ("weights", "means", "covariances", "precisions_cholesky")
_HISTORY = ("log_likelihood", "weights", "means", "moved", "expected")
_MOMENTS = ("mean", "squares", "minimum", "maximum")
_DRAW = ("priorities", "numbers", "weights", "codes")


def encode(state: FitState) -> tuple[NamedArrays, Meta]:
    """Split a state into arrays by name and metadata that JSON can hold."""
    arrays: NamedArrays = {}
    meta: Meta = {
        "scans": state.scans,
        "fresh": list(state.fresh),
        "survey": _encode_survey(state.survey, arrays),
        "starts": _encode_starts(state.starts, "start", arrays),
        "search": _encode_summary(state.search, "search", arrays),
        "iteration": state.em and state.em.iteration,
        "digests": len(state.digests),
        "candidates": [
            _encode_candidate(candidate, f"candidate.{number}", arrays)
            for number, candidate in enumerate(state.em.candidates if state.em else ())
        ],
        "frames": {
            str(frame.iteration): [
                _encode_parameters(mixture, f"frame.{frame.iteration}.{number}", arrays)
                for number, mixture in enumerate(frame.mixtures)
            ]
            for frame in state.frames
        },
        "cells": [
            _encode_cell(cell, f"cell.{number}", arrays) for number, cell in enumerate(state.cells)
        ],
        "turns": state.turns,
        "replaced_on_sample": state.replaced_on_sample,
        "ownership": state.ownership and asdict(state.ownership),
        "evaluated": encode_densities(state.evaluated, arrays),
    }
    if state.fingerprints is not None:
        arrays["fingerprints"] = np.asarray(state.fingerprints, dtype=np.uint64)
    if state.digests:
        digests = np.frombuffer(bytes.fromhex("".join(state.digests)), dtype=np.uint8)
        arrays["digests"] = digests.reshape(len(state.digests), -1)
    return arrays, meta


def decode(arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> FitState:
    """Rebuild the state that `encode` split; its arrays are the same, but read-only.

    Raises
    ------
    LookupError, TypeError, ValueError
        The content is not what `encode` of this version writes.
    """
    em = None
    if meta["iteration"] is not None:
        candidates = tuple(
            _decode_candidate(candidate, f"candidate.{number}", arrays)
            for number, candidate in enumerate(meta["candidates"])
        )
        em = EMState(candidates, meta["iteration"])
    fingerprints = arrays.get("fingerprints")
    digests = arrays["digests"] if meta["digests"] else ()
    return FitState(
        _decode_survey(meta["survey"], arrays),
        None if fingerprints is None else tuple(map(int, fingerprints)),
        _decode_starts(meta["starts"], "start", arrays),
        tuple(meta["fresh"]),
        _decode_summary(meta["search"], "search", arrays),
        em,
        meta["scans"],
        tuple(digest.tobytes().hex() for digest in digests),
        cells=tuple(
            CellSearch(
                _decode_starts(cell["starts"], f"cell.{number}.start", arrays),
                _decode_summary(cell["summary"], f"cell.{number}", arrays),
                cell["problem"],
            )
            for number, cell in enumerate(meta["cells"])
        ),
        turns=meta["turns"],
        replaced_on_sample=meta["replaced_on_sample"],
        ownership=_decode_ownership(meta["ownership"]),
        evaluated=decode_densities(meta["evaluated"], arrays),
        frames=tuple(
            Frame(
                int(iteration),
                tuple(
                    _decode_parameters(kind, f"frame.{iteration}.{number}", arrays)
                    for number, kind in enumerate(kinds)
                ),
            )
            for iteration, kinds in meta["frames"].items()
        ),
    )


def _decode_ownership(meta: Meta | None) -> Ownership | None:
    return None if meta is None else Ownership(tuple(meta["names"]), tuple(meta["owners"]))


def _encode_starts(
    starts: Sequence[MixtureParameters], prefix: str, arrays: NamedArrays
) -> list[str]:
    return [
        _encode_parameters(start, f"{prefix}.{number}", arrays)
        for number, start in enumerate(starts)
    ]


def _decode_starts(
    kinds: Sequence[str], prefix: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[MixtureParameters, ...]:
    return tuple(
        _decode_parameters(covariance_type, f"{prefix}.{number}", arrays)
        for number, covariance_type in enumerate(kinds)
    )


def _encode_summary(summary: SearchSummary | None, prefix: str, arrays: NamedArrays) -> Meta | None:
    if summary is None:
        return None
    arrays[f"{prefix}.log_likelihoods"] = np.array(summary.log_likelihoods, dtype=np.float64)
    firsts = _encode_starts(summary.firsts, f"{prefix}.first", arrays)
    meta = asdict(replace(summary, firsts=()))
    return {**meta, "log_likelihoods": None, "firsts": firsts}


def _decode_summary(
    meta: Meta | None, prefix: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> SearchSummary | None:
    if meta is None:
        return None
    log_likelihoods = arrays[f"{prefix}.log_likelihoods"].tolist()
    firsts = _decode_starts(meta["firsts"], f"{prefix}.first", arrays)
    return SearchSummary(**{**meta, "log_likelihoods": tuple(log_likelihoods), "firsts": firsts})


def _encode_cell(cell: CellSearch, prefix: str, arrays: NamedArrays) -> Meta:
    return {
        "starts": _encode_starts(cell.starts, f"{prefix}.start", arrays),
        "summary": _encode_summary(cell.summary, prefix, arrays),
        "problem": cell.problem,
    }


def _encode_parameters(parameters: MixtureParameters, prefix: str, arrays: NamedArrays) -> str:
    for name in _PARAMETERS:
        arrays[f"{prefix}.{name}"] = getattr(parameters, name)
    return parameters.covariance_type


def _decode_parameters(
    covariance_type: str, prefix: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> MixtureParameters:
    return MixtureParameters(covariance_type, *(arrays[f"{prefix}.{name}"] for name in _PARAMETERS))


def _encode_candidate(candidate: Candidate, prefix: str, arrays: NamedArrays) -> Meta:
    history = candidate.history
    for name in _HISTORY:
        # (iterations,), or (iterations, k) weights and (iterations, k, d) means
        arrays[f"{prefix}.history.{name}"] = np.array(
            [getattr(iteration, name) for iteration in history], dtype=np.float64
        )
    arrays[f"{prefix}.weight"] = np.array([candidate.weight])
    if candidate.counts is not None:
        arrays[f"{prefix}.counts"] = candidate.counts
    return {
        "covariance_type": _encode_parameters(candidate.parameters, prefix, arrays),
        "status": candidate.status.value,
        "rows": candidate.rows,
        "problem": candidate.problem,
        "broken": candidate.broken,
        "ending": candidate.ending.value,
        "guarded": [list(iteration.guarded) for iteration in history],
        "replaced": [list(iteration.replaced) for iteration in history],
    }


def _decode_candidate(meta: Meta, prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Candidate:
    columns = [arrays[f"{prefix}.history.{name}"] for name in _HISTORY]
    history = tuple(
        Iteration(
            float(log_likelihood),
            weights,
            means,
            tuple(guarded),
            float(moved),
            float(expected),
            tuple(replaced),
        )
        for log_likelihood, weights, means, moved, expected, guarded, replaced in zip(
            *columns, meta["guarded"], meta["replaced"], strict=True
        )
    )
    return Candidate(
        _decode_parameters(meta["covariance_type"], prefix, arrays),
        Status(meta["status"]),
        history,
        arrays.get(f"{prefix}.counts"),
        meta["rows"],
        float(arrays[f"{prefix}.weight"][0]),
        meta["problem"],
        meta["broken"],
        ending=Ending(meta["ending"]),
    )


def _encode_survey(survey: Survey, arrays: NamedArrays) -> Meta:
    for name in _MOMENTS:
        arrays[f"moments.{name}"] = getattr(survey.moments, name)
    _encode_draw(survey.draw, "draw", arrays)
    if survey.labels is not None:
        _encode_draw(survey.labels.draw, "labels", arrays)
    arrays["survey.weight"] = np.array([survey.weight, survey.weight_squares, survey.log_slopes])
    arrays["defects.missing"] = survey.defects.missing
    arrays["defects.infinite"] = survey.defects.infinite
    return {
        "source_rows": survey.source_rows,
        "outside": survey.outside,
        "transforms": survey.transforms and survey.transforms.to_json(),
        "incomplete": survey.incomplete,
        "observed": survey.moments.observed and list(survey.moments.observed),
        "rows": survey.moments.rows,
        "wanted": survey.draw.wanted,
        "labels": survey.labels and dict(survey.labels.rows),
        "first_missing": [place and list(place) for place in survey.defects.first_missing],
        "first_infinite": [place and list(place) for place in survey.defects.first_infinite],
    }


def _decode_survey(meta: Meta, arrays: Mapping[str, npt.NDArray[Any]]) -> Survey:
    mean, squares, minimum, maximum = (arrays[f"moments.{name}"] for name in _MOMENTS)
    observed = meta["observed"] and tuple(meta["observed"])
    return Survey(
        meta["source_rows"],
        Moments(meta["rows"], mean, squares, minimum, maximum, observed),
        float(arrays["survey.weight"][0]),
        Defects(
            arrays["defects.missing"],
            arrays["defects.infinite"],
            tuple(place and (place[0], place[1]) for place in meta["first_missing"]),
            tuple(place and (place[0], place[1]) for place in meta["first_infinite"]),
        ),
        (_decode_draw(meta["wanted"], "draw", arrays),),
        meta["outside"],
        meta["incomplete"],
        float(arrays["survey.weight"][1]),
        meta["transforms"] and Transforms.from_json(meta["transforms"]),
        float(arrays["survey.weight"][2]),
        labels=None
        if meta["labels"] is None
        else LabelSurvey(meta["labels"], _decode_draw(LABEL_ROWS, "labels", arrays)),
    )


def _encode_draw(draw: Draw, prefix: str, arrays: NamedArrays) -> None:
    for name in _DRAW:
        arrays[f"{prefix}.{name}"] = getattr(draw, name)
    arrays[f"{prefix}.columns"] = draw.values.T  # (d, m): feature-major, as it is in memory


def _decode_draw(wanted: int, prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Draw:
    priorities, numbers, weights, codes = (arrays[f"{prefix}.{name}"] for name in _DRAW)
    return Draw(wanted, priorities, numbers, arrays[f"{prefix}.columns"].T, weights, codes)
