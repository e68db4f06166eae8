"""Open what is to be served, say what it is, and serve it."""

from __future__ import annotations

import importlib.util
import math
import socket
from collections.abc import Sequence
from pathlib import Path

from vpeft.apis.commands.ending import say
from vpeft.apis.serve.limits import Limits, is_loopback, need_token
from vpeft.errors import UserError

PACKAGES = ("fastapi", "uvicorn", "python_multipart")


def serve(
    runs: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    weights: str | None = None,
    device: str | None = None,
    batch_size: int = 16,
    wait: float = 0.005,
    max_megabytes: float = 32,
    max_megapixels: float = 50,
) -> None:
    """Serve runs until the process is told to end.

    Args:
        runs: Run folders or adapter files, as ``PATH`` or ``NAME=PATH``.
        host: The address.
        port: The port.
        token: What clients must bear; needed at any address but a loopback one.
        weights: As of :func:`vpeft.load`.
        device: As of :func:`vpeft.load`.
        batch_size: Images of a pass at most.
        wait: Seconds that an image waits for others.
        max_megabytes: Of a request.
        max_megapixels: Of an image.

    Raises:
        UserError: A package lacks, a run cannot be served, the address is taken, or open to others without a token.
    """
    need_token(host, token)
    if not (min(batch_size, max_megabytes, max_megapixels) > 0 and 0 <= wait < math.inf and 0 < port < 65536):
        raise UserError(
            "--batch-size, --max-megabytes and --max-megapixels are above 0, --wait-ms not below, --port is 1 to 65535."
        )
    if lacking := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"serving needs {', '.join(lacking)}: pip install -c requirements/constraints.txt -e .[serve]")
    _need_free(host, port)
    import uvicorn

    from vpeft.apis.serve.app import make_app
    from vpeft.apis.serve.served import Served

    served = Served(named_runs(runs), weights, device)
    limits = Limits(body=int(max_megabytes * 2**20), pixels=int(max_megapixels * 1e6))
    say(f"base: {type(served.first.model).__name__} on {served.first.device}")
    for name, run in served.runs.items():
        say(f"{name}: {run.family}, {served.counts[name]} classes, {run.file}")
    who = "this machine alone" if is_loopback(host) else "whoever bears the token"
    say(f"http://{host}:{port}/ for {who}; the interface is described at /docs. Ctrl-C ends it.")
    app = make_app(served, token, limits, host, batch_size, wait)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)


def _need_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened at, before the runs are opened."""
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UserError(f"--host {host} --port {port} cannot be taken: {error.strerror}.") from error


def named_runs(runs: Sequence[str]) -> dict[str, str]:
    """Runs by the names that clients ask for them by.

    Args:
        runs: ``PATH`` (named as the run's folder is) or ``NAME=PATH``.

    Raises:
        UserError: Two have one name.
    """
    found: dict[str, str] = {}
    for one in runs:
        name, equals, path = one.partition("=")
        if not equals or Path(one).exists():
            place = Path(one).resolve()
            name, path = (place.parent if place.is_file() else place).name, one
        if not name or name in found:
            raise UserError(f"{one}: the name {name!r} is {'taken' if name else 'empty'}; say another, as NAME={path}.")
        found[name] = path
    return found
