"""How a tool ends: one line for every error."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from vpeft.errors import UserError


def run_main(main: Callable[[], int | None]) -> None:
    """Run a tool; wrong use and bad input end in one line and exit status 2, without a traceback."""
    try:
        status = main() or 0
        if torch.distributed.is_initialized():
            # Left to the interpreter's end, gloo's threads now and then abort a process that has done its work.
            torch.distributed.destroy_process_group()
        sys.exit(status)
    except UserError as error:
        # From a data worker the message comes with the worker's traceback; the line itself stands last.
        text = str(error).strip().splitlines()[-1] if "DataLoader worker" in str(error) else str(error)
        print(f"error: {text.removeprefix('vpeft.errors.UserError: ')}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; --resume goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)
