"""What the graph of a training step keeps, where there is a choice."""
