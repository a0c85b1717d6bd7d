"""Rows in chunks: scans over them on threads or a cluster, and what a fit needs of a scan."""
