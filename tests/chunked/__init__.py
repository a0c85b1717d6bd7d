"""Tests of chunks, scans and clusters."""
