"""The tests. What several of them need lies beside them in modules of its own."""
