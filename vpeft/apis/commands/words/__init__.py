"""Words of the command ``vpeft``: one file each, in the rooms that ``vpeft --help`` shows."""
