"""Scans on the workers of a Dask cluster: the only folder that knows `distributed`.

``kinds`` opens what a cluster file names, ``executor`` runs scans on it, ``scan`` follows a single
scan, ``placement`` decides which worker does what, ``roster`` holds the workers, ``parcel`` is what
all of them need, ``worker`` what runs on them.
"""

from gmm_dask.chunked.cluster.executor import ClusterExecutor
from gmm_dask.chunked.cluster.kinds import open_executor

__all__ = ["ClusterExecutor", "open_executor"]
