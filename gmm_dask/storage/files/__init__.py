"""What is written, and how: whole or not at all, under locks, sealed."""
