"""The passes in single precision, for float32 rows where that is safe; sums are float64."""
