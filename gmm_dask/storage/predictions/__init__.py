"""Prediction datasets: their parts, staged, verified, published."""
