"""What a prediction loses by files that are left out tonight: it is said, never silent."""

from __future__ import annotations

import logging

from gmm_dask.config import RunConfig
from gmm_dask.errors import StorageError
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.predictions.dataset import read_predictions

logger = logging.getLogger("gmm_dask")


def count_lost_rows(run: RunConfig, plan: InputPlan) -> int:
    """Count the predictions of files that are skipped or not at rest, and warn of them.

    The next version does not have them: what such a file holds now is not known, and a prediction
    stands for a row of the input. They come back with their file; until then the version before
    has them.
    """
    left_out = {file.path for file in plan.skipped} | {*plan.unsettled}
    if not left_out or run.output.predictions is None:
        return 0
    try:
        before = read_predictions(run.output.predictions)
    except StorageError:  # the prediction will say so
        return 0
    parts = [part for part in before.parts if part.input_file in left_out] if before else []
    rows = sum(part.rows for part in parts)
    if rows:
        logger.warning(
            "%s predictions of %d file(s) that are left out are not in the next version, the first "
            "of %s; they come back with their file",
            f"{rows:,}",
            len({part.input_file for part in parts}),
            parts[0].input_file,
        )
    return rows
