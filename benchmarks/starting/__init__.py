"""What it takes until something begins: the command, attaching, loading."""
