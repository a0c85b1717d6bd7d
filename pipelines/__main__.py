"""``python -m pipelines`` is ``gmm-dask``: for where the command is not on the path."""

from pipelines.command import main

main()
