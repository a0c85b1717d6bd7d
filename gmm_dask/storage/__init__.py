"""Files: Parquet in, models, checkpoints and predictions out; all that is written is whole."""
