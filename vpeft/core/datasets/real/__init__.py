"""Real pictures that packages hold, with the protocol of VTAB-1k."""
