"""Probe passes: what an unknown network calls, and with what it can be called."""
