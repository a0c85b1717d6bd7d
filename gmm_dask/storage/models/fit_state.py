"""The state of a fit as arrays and JSON for its checkpoint, and back, bit for bit.

Every float is in an array, because JSON cannot express infinity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import NamedArrays
from gmm_dask.chunked.defects import Defects
from gmm_dask.chunked.fit_records import FitState
from gmm_dask.chunked.survey import Draw, Moments, Survey
from gmm_dask.mixture.em import Candidate, EMState, Iteration, Status
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchSummary

Meta = dict[str, Any]

_PARAMETERS = ("weights", "means", "covariances", "precisions_cholesky")
_HISTORY = ("log_likelihood", "weights", "means", "moved")
_MOMENTS = ("mean", "squares", "minimum", "maximum")
_DRAW = ("priorities", "numbers", "weights")


def encode(state: FitState) -> tuple[NamedArrays, Meta]:
    """Split a state into arrays by name and metadata that JSON can hold."""
    arrays: NamedArrays = {}
    meta: Meta = {
        "scans": state.scans,
        "fresh": list(state.fresh),
        "survey": _encode_survey(state.survey, arrays),
        "starts": [
            _encode_parameters(start, f"start.{number}", arrays)
            for number, start in enumerate(state.starts)
        ],
        "search": state.search and {**asdict(state.search), "log_likelihoods": None},
        "iteration": state.em and state.em.iteration,
        "digests": len(state.digests),
        "candidates": [
            _encode_candidate(candidate, f"candidate.{number}", arrays)
            for number, candidate in enumerate(state.em.candidates if state.em else ())
        ],
    }
    if state.search is not None:
        arrays["search.log_likelihoods"] = np.array(state.search.log_likelihoods)
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
    search = meta["search"]
    em = None
    if meta["iteration"] is not None:
        candidates = tuple(
            _decode_candidate(candidate, f"candidate.{number}", arrays)
            for number, candidate in enumerate(meta["candidates"])
        )
        em = EMState(candidates, meta["iteration"])
    fingerprints = arrays.get("fingerprints")
    digests = arrays["digests"] if meta["digests"] else ()
    likelihoods = arrays["search.log_likelihoods"].tolist() if search else []
    return FitState(
        _decode_survey(meta["survey"], arrays),
        None if fingerprints is None else tuple(map(int, fingerprints)),
        tuple(
            _decode_parameters(covariance_type, f"start.{number}", arrays)
            for number, covariance_type in enumerate(meta["starts"])
        ),
        tuple(meta["fresh"]),
        search and SearchSummary(**{**search, "log_likelihoods": tuple(likelihoods)}),
        em,
        meta["scans"],
        tuple(digest.tobytes().hex() for digest in digests),
    )


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
        "guarded": [list(iteration.guarded) for iteration in history],
    }


def _decode_candidate(meta: Meta, prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Candidate:
    columns = [arrays[f"{prefix}.history.{name}"] for name in _HISTORY]
    history = tuple(
        Iteration(float(log_likelihood), weights, means, tuple(guarded), float(moved))
        for log_likelihood, weights, means, moved, guarded in zip(
            *columns, meta["guarded"], strict=True
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
    )


def _encode_survey(survey: Survey, arrays: NamedArrays) -> Meta:
    for name in _MOMENTS:
        arrays[f"moments.{name}"] = getattr(survey.moments, name)
    for name in _DRAW:
        arrays[f"draw.{name}"] = getattr(survey.draw, name)
    arrays["weight"] = np.array([survey.weight])
    arrays["draw.columns"] = survey.draw.values.T  # (d, m): feature-major, as it is in memory
    arrays["defects.missing"] = survey.defects.missing
    arrays["defects.infinite"] = survey.defects.infinite
    return {
        "source_rows": survey.source_rows,
        "outside": survey.outside,
        "rows": survey.moments.rows,
        "wanted": survey.draw.wanted,
        "first_missing": [place and list(place) for place in survey.defects.first_missing],
        "first_infinite": [place and list(place) for place in survey.defects.first_infinite],
    }


def _decode_survey(meta: Meta, arrays: Mapping[str, npt.NDArray[Any]]) -> Survey:
    return Survey(
        meta["source_rows"],
        Moments(meta["rows"], *(arrays[f"moments.{name}"] for name in _MOMENTS)),
        float(arrays["weight"][0]),
        Defects(
            arrays["defects.missing"],
            arrays["defects.infinite"],
            tuple(place and (place[0], place[1]) for place in meta["first_missing"]),
            tuple(place and (place[0], place[1]) for place in meta["first_infinite"]),
        ),
        (
            Draw(
                meta["wanted"],
                arrays["draw.priorities"],
                arrays["draw.numbers"],
                arrays["draw.columns"].T,
                arrays["draw.weights"],
            ),
        ),
        meta["outside"],
    )
