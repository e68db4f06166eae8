"""Runs that answer over HTTP: several adapters on one base, requests in batches."""
