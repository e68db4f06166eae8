"""How does a library name its tensors? One file per layout of names."""
