"""Small faults that the tests must find, and a command that looks whether they do."""
