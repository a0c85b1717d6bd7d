"""The history of drift: read as it was written, bounded, and since when."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gmm_dask.storage.models.drift_history import (
    MOST_NIGHTS,
    DriftRecord,
    Finding,
    decode_drift,
    decode_noise,
    encode_drift,
    join_nights,
    seen_since,
)
from gmm_dask.storage.models.estimates import Estimate

FOUND = Finding("mean", 2, "height", 0.62, 0.05, "the mean of height in component 2 lies higher")
NIGHT = DriftRecord(
    run_id="run-0",
    created="2026-01-01T03:00:00+00:00",
    by="retrain",
    version=3,
    files=1,
    rows=400,
    effective_rows=390.5,
    checks={"mean shift": (0.62, 0.25, False), "low-density share": (0.03, 0.01, False)},
    findings=(FOUND,),
    means=(Estimate(2, "height", 0.62, 0.05),),
    spreads=(Estimate(None, "height", 1.1, 0.2), Estimate(2, None, 0.9, 0.1)),
    shares=(Estimate(2, None, 0.01, 0.02),),
)


def night(number, *findings):
    created = f"2026-01-{1 + number % 28:02d}T03:00:00+00:00"
    return replace(NIGHT, run_id=f"run-{number}", created=created, findings=findings)


def test_a_history_is_read_as_it_was_written():
    noise = np.array([[1.0, 2.5]])
    read, nights = decode_drift(encode_drift(noise, [NIGHT]))
    np.testing.assert_array_equal(read, noise)
    assert nights == (NIGHT,)
    assert decode_drift(encode_drift(None)) == (None, ())
    # What is carried forward is not written anew, but would have the same bytes.
    text = encode_drift(noise, [NIGHT, night(1, FOUND)])
    assert encode_drift(*decode_drift(text)) == text
    assert encode_drift(noise, [replace(record) for record in decode_drift(text)[1]]) == text
    np.testing.assert_array_equal(decode_noise(text), noise)
    for end in (1, 2, len(text) // 2):
        with pytest.raises(ValueError, match=r"not|Expecting|Unterminated"):
            decode_drift(text[:-end])
    later = NIGHT.to_json() | {"a key of a later version": 1}
    assert DriftRecord.from_json(later) == NIGHT
    assert NIGHT.drifted
    assert NIGHT.other_words == "low-density share 0.03, where 0.01 is allowed"


@pytest.mark.parametrize(
    "change",
    [{"format": 9}, {"nights": [{}]}, {"nights": None}, {"noise": "much"}],
)
def test_something_else_is_no_history(change):
    text = json.dumps(json.loads(encode_drift(None)) | change).encode()
    with pytest.raises(ValueError, match=r"not|could|much|form"):
        decode_drift(text)


def test_a_history_is_bounded_and_holds_each_run_once():
    many = [replace(NIGHT, run_id=f"run-{n}", created=f"2026-{n:04d}") for n in range(100)]
    joined = join_nights(many[50:], many[:80])
    assert joined == tuple(many[-MOST_NIGHTS:])


def test_what_is_seen_again_the_same_way_is_seen_since_then():
    lower = FOUND._replace(value=-0.4)
    other = FOUND._replace(feature="width")
    nights = [night(0, FOUND), night(1), night(2, FOUND, other), night(3, other), night(4, FOUND)]
    assert [(s.finding, s.nights) for s in seen_since(nights)] == [(FOUND, 1)]
    nights += [night(5, other, FOUND), night(6, FOUND, other)]
    since = {s.finding: (s.created[:10], s.nights) for s in seen_since(nights)}
    assert since == {FOUND: ("2026-01-05", 3), other: ("2026-01-06", 2)}
    assert seen_since([night(0, lower), night(1, FOUND)])[0].nights == 1
    assert seen_since([]) == ()
