"""Scans on the workers of a Dask cluster; no other folder imports `distributed`.

``kinds`` opens the cluster that a cluster file names, ``executor`` runs scans on it, ``scan`` runs
a single scan, ``placement`` decides which worker does what, ``joining`` which sums are joined
where, ``flights`` keeps what workers were asked for, ``roster`` keeps the list of workers,
``parcel`` sends them what they all need, and ``worker`` holds the code that runs on them.
"""

from gmm_dask.chunked.cluster.executor import ClusterExecutor
from gmm_dask.chunked.cluster.kinds import open_executor

__all__ = ["ClusterExecutor", "open_executor"]
