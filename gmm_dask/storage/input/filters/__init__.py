"""Filters of an input: SQL's WHERE as a predicate, what it decides unread, and masks of rows."""
