"""Working off jobs, whatever they are."""
