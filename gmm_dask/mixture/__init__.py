"""The mathematics of a Gaussian mixture, in functions of arrays and frozen records."""
