"""Datasets, hosts and hooks."""
