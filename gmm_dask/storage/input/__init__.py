"""Parquet that is read: which files, which rows, decoded into chunks."""
