"""``python -m gmm_dask.pipelines`` is ``gmm-dask``: for where the command is not on the path."""

from gmm_dask.pipelines.command import main

main()
