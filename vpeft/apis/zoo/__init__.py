"""The zoo: small adapters that the embedded benchmark has trained and that are shipped, opened by their names."""
