"""The kernels: compiled passes over rows. The first line of each file says what it computes."""
