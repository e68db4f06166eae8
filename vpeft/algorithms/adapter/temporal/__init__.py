"""Adapters that look from frame to frame of a clip."""

from vpeft.algorithms.adapter.temporal import aim, st_adapter  # noqa: F401  (register)
