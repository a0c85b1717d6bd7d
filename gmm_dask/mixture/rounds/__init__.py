"""EM of the runs of a search: each climbs on a thread of its own, in compiled calls.

Beside a few thousand rows, the calls of numpy between two passes take most of the time and hold the
interpreter's lock. So iterations follow each other within one call (`climb`), as long as float32
serves the rows; what it does not serve, and what breaks down, goes on one iteration at a time
through `gmm_dask.mixture.em` (`fit`).
"""
