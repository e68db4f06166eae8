"""Block kinds that hosts of several libraries share."""
