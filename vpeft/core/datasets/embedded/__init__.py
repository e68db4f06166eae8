"""Which data need no download? Drawn by rule, or shipped with the dependencies."""
