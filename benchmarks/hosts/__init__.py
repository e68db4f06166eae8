"""Which networks of a library can be adapted."""
