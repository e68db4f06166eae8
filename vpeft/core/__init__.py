"""What everything else stands on: data, backbones, the contract of a method, the life of an adaptation, runs, hooks."""

from vpeft import compat  # noqa: F401  (before any package that it mends)
