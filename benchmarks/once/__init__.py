"""What work that is done once saves."""
