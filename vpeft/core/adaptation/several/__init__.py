"""Several adapters on one base: named, switched, summed, mixed within a batch."""
