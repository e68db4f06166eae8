"""Compare methods over tasks and seeds."""
