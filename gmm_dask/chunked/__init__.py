"""Scans of rows in chunks, on threads or a cluster, and the fits and evaluations made of them."""
