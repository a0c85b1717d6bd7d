"""The state of a fit as arrays and JSON, for its checkpoint, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.chunked.fit import FitState
from gmm_dask.chunked.survey import Defects, Draw, Moments, Survey
from gmm_dask.mixture.em import Candidate, EMState, Iteration, Status
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchRecord

Arrays = dict[str, npt.NDArray[Any]]
Meta = dict[str, Any]

_PARAMETERS = ("weights", "means", "covariances", "precisions_cholesky")
_MOMENTS = ("mean", "products", "minimum", "maximum")
_DRAW = ("priorities", "numbers", "weights")


def encode(state: FitState) -> tuple[Arrays, Meta]:
    """Take a state apart into arrays by name and what JSON can hold."""
    arrays: Arrays = {}
    meta: Meta = {
        "scans": state.scans,
        "fresh": list(state.fresh),
        "survey": _encode_survey(state.survey, arrays),
        "starts": [
            _encode_parameters(one, f"start.{number}", arrays)
            for number, one in enumerate(state.starts)
        ],
        "search": state.search and asdict(state.search),
        "iteration": state.em and state.em.iteration,
        "candidates": [
            _encode_candidate(one, f"candidate.{number}", arrays)
            for number, one in enumerate(state.em.candidates if state.em else ())
        ],
    }
    if state.fingerprints is not None:
        arrays["fingerprints"] = np.asarray(state.fingerprints, dtype=np.uint64)
    return arrays, meta


def decode(arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> FitState:
    """Put a state together again."""
    search = meta["search"]
    em = None
    if meta["iteration"] is not None:
        candidates = tuple(
            _decode_candidate(one, f"candidate.{number}", arrays)
            for number, one in enumerate(meta["candidates"])
        )
        em = EMState(candidates, meta["iteration"])
    prints = arrays.get("fingerprints")
    return FitState(
        _decode_survey(meta["survey"], arrays),
        None if prints is None else tuple(int(one) for one in prints),
        tuple(
            _decode_parameters(one, f"start.{number}", arrays)
            for number, one in enumerate(meta["starts"])
        ),
        tuple(meta["fresh"]),
        search and SearchRecord(**{**search, "log_likelihoods": tuple(search["log_likelihoods"])}),
        em,
        meta["scans"],
    )


def _encode_parameters(parameters: MixtureParameters, prefix: str, arrays: Arrays) -> str:
    for name in _PARAMETERS:
        arrays[f"{prefix}.{name}"] = getattr(parameters, name)
    return parameters.covariance_type


def _decode_parameters(
    covariance_type: str, prefix: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> MixtureParameters:
    return MixtureParameters(covariance_type, *(arrays[f"{prefix}.{name}"] for name in _PARAMETERS))


def _encode_candidate(candidate: Candidate, prefix: str, arrays: Arrays) -> Meta:
    for number, iteration in enumerate(candidate.history):
        arrays[f"{prefix}.history.{number}.weights"] = iteration.weights
        arrays[f"{prefix}.history.{number}.means"] = iteration.means
    if candidate.counts is not None:
        arrays[f"{prefix}.counts"] = candidate.counts
    return {
        "covariance_type": _encode_parameters(candidate.parameters, prefix, arrays),
        "status": candidate.status.value,
        "rows": candidate.rows,
        "weight": candidate.weight,
        "problem": candidate.problem,
        "history": [
            {
                "log_likelihood": iteration.log_likelihood,
                "guarded": list(iteration.guarded),
                "moved": iteration.moved,
            }
            for iteration in candidate.history
        ],
    }


def _decode_candidate(meta: Meta, prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Candidate:
    history = tuple(
        Iteration(
            one["log_likelihood"],
            arrays[f"{prefix}.history.{number}.weights"],
            arrays[f"{prefix}.history.{number}.means"],
            tuple(one["guarded"]),
            one["moved"],
        )
        for number, one in enumerate(meta["history"])
    )
    return Candidate(
        _decode_parameters(meta["covariance_type"], prefix, arrays),
        Status(meta["status"]),
        history,
        arrays.get(f"{prefix}.counts"),
        meta["rows"],
        meta["weight"],
        meta["problem"],
    )


def _encode_survey(survey: Survey, arrays: Arrays) -> Meta:
    for name in _MOMENTS:
        arrays[f"moments.{name}"] = getattr(survey.moments, name)
    for name in _DRAW:
        arrays[f"draw.{name}"] = getattr(survey.draw, name)
    arrays["draw.columns"] = survey.draw.values.T  # (d, m): feature-major, as it is in memory
    arrays["defects.missing"] = survey.defects.missing
    arrays["defects.infinite"] = survey.defects.infinite
    return {
        "source_rows": survey.source_rows,
        "rows": survey.moments.rows,
        "weight": survey.weight,
        "wanted": survey.draw.wanted,
        "first_missing": [place and list(place) for place in survey.defects.first_missing],
        "first_infinite": [place and list(place) for place in survey.defects.first_infinite],
    }


def _decode_survey(meta: Meta, arrays: Mapping[str, npt.NDArray[Any]]) -> Survey:
    return Survey(
        meta["source_rows"],
        Moments(meta["rows"], *(arrays[f"moments.{name}"] for name in _MOMENTS)),
        meta["weight"],
        Defects(
            arrays["defects.missing"],
            arrays["defects.infinite"],
            tuple(place and (place[0], place[1]) for place in meta["first_missing"]),
            tuple(place and (place[0], place[1]) for place in meta["first_infinite"]),
        ),
        Draw(
            meta["wanted"],
            arrays["draw.priorities"],
            arrays["draw.numbers"],
            arrays["draw.columns"].T,
            arrays["draw.weights"],
        ),
    )
