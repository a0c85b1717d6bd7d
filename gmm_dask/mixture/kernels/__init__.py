"""The engine: compiled passes over rows. What each file computes stands at its head."""
