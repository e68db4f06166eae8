"""What the numbers of an adapted model are: their precision, the base's own head, weights from before merging."""
