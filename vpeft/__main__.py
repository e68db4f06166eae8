"""``python -m vpeft``: the command ``vpeft``."""

from vpeft.apis.commands.app import main

if __name__ == "__main__":
    main()
