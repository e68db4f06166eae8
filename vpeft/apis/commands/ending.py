"""How a tool ends: one line for every error that says what was wrong, where, and what to do.

Exit status:

====  ===============================================================================================================
0     done
1     done, and something of it failed (a run of a benchmark, a broken data set); or a fault of this package's own
2     wrong use, bad input, or a machine that cannot (disk, memory, a package that is missing)
130   stopped by Ctrl-C
141   whoever read the output has gone
143   stopped by SIGTERM
====  ===============================================================================================================
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable

from vpeft.apis.commands.explain import explain
from vpeft.apis.commands.stopping import RESUMABLE, ending_by_sigterm, stop_behind
from vpeft.errors import TRACEBACK, one_line, printable

GONE, STOPPED = 141, 130


def run_main(main: Callable[[], int | None]) -> None:
    """Run a tool and end the process.

    Args:
        main: The tool; it reads ``sys.argv``, from which ``--traceback`` is taken here, and gives the exit status (0).
    """
    if "--traceback" in sys.argv[1:]:
        sys.argv[1:] = [word for word in sys.argv[1:] if word != "--traceback"]
        os.environ[TRACEBACK] = "1"  # processes that the tool starts show it too
    logging.Handler.handleError = _log_is_lost
    try:
        with ending_by_sigterm():
            status = main() or 0
        sys.stdout.flush()  # a full disk or a reader that has gone shows here, not at the interpreter's end
        _leave_the_others(status)
    except Exception as error:
        status = end(error)
    except KeyboardInterrupt as error:
        status = end(error)
    sys.exit(status)


def _leave_the_others(status: int) -> None:
    """End here a process that has done its work among others, without the interpreter's end.

    Shared-out weights hold the group's threads until then, and these now and then abort such a process.
    """
    torch = sys.modules.get("torch")  # a help does without
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()  # what libraries registered: workers end, files are closed
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def say(*texts: object, to_error: bool = False) -> None:
    """Print texts, each on a line of its own, without escape sequences and control characters of what they name.

    Args:
        texts: Anything; line breaks stay.
        to_error: To the standard error.
    """
    for text in texts:
        print(printable(text, lines=True), file=sys.stderr if to_error else sys.stdout, flush=True)


def end(error: BaseException) -> int:
    """Say what an error is in one line on the standard error (with the traceback before it where that is asked for).

    Returns:
        The exit status.
    """
    error = stop_behind(error) or error
    if isinstance(error, BrokenPipeError) and _reader_has_gone():
        return GONE
    with contextlib.suppress(OSError):  # nobody can be told where the standard error is closed or full
        if os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        if isinstance(error, KeyboardInterrupt):
            print(one_line(error) if str(error) else RESUMABLE, file=sys.stderr)
        else:
            print(f"error: {one_line(explain(error)[0])}", file=sys.stderr)
    return getattr(error, "status", STOPPED) if isinstance(error, KeyboardInterrupt) else explain(error)[1]


def _reader_has_gone() -> bool:
    """Whether the standard output is a pipe that nobody reads; what is left for it goes nowhere then."""
    with contextlib.suppress(OSError, ValueError):  # an output without a file
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return True
    return False


def _log_is_lost(handler: logging.Handler, record: logging.LogRecord) -> None:
    """A log that cannot be written is said once for each; Python would print a traceback for every line."""
    if not getattr(handler, "is_lost", False):
        handler.is_lost = True
        where = getattr(handler, "baseFilename", "a log")
        with contextlib.suppress(OSError):
            print(f"warning: {where} cannot be written: {one_line(sys.exc_info()[1] or '')}", file=sys.stderr)
