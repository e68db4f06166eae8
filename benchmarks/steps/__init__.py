"""How long a step of training or a forward pass takes."""
