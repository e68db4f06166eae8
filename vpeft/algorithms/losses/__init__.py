"""Losses of algorithms."""
