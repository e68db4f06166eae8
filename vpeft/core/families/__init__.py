"""What differs between the families of tasks? Samples, metrics, packages, stated once each."""
