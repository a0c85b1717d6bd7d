"""Tests of the steps of a run."""
