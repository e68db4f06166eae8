"""To see and understand what a method does: every part works on the folders of trained runs."""
