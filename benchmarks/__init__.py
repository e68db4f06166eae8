"""What the code costs: time, memory, bytes; ``all.py`` runs all of it."""
