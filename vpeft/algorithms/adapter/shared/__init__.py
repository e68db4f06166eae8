"""Bottlenecks whose matrices blocks share or are products of smaller ones."""

from vpeft.algorithms.adapter.shared import arc, lorand  # noqa: F401  (register)
