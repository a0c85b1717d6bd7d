"""Fitted models: their files, the registry, the checkpoints of fits."""
