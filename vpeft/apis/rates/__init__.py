"""Which learning rate and size a method is compared with, found by a search with the same budget for all."""
