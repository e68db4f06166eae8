"""What does training need of an adaptation? Losses, parameter groups, data to select from."""
