"""The mathematics of a Gaussian mixture: functions from arrays and frozen records to the same."""
