"""``python -m gmm_dask.pipelines`` is ``gmm-dask``, for when the command is not on the path."""

from gmm_dask.pipelines.command import main

main()
