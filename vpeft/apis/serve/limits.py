"""What a client may send: how many bytes, how many pixels, and who it must be."""

from __future__ import annotations

import hmac
import ipaddress
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vpeft.core.datasets.load.image import read_bytes
from vpeft.errors import UserError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """What is taken.

    Attributes:
        body: Bytes of a request.
        pixels: Pixels of an image, by its header.
        images: Images of a request.
        decoding: Images that are decoded at a time: what memory they take together.
    """

    body: int = 32 * 2**20
    pixels: int = 50_000_000
    images: int = 16
    decoding: int = 4


class Decoder:
    """Turns bytes into images, a few at a time."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self._places = limits, threading.Semaphore(limits.decoding)

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        """An image as BGR, uint8 ``(H, W, 3)``.

        Raises:
            UserError: It is none, broken, or too large.
        """
        with self._places:
            return read_bytes(data, name, self.limits.pixels)


class BodyLimit:
    """Middleware: a body that is longer than allowed is answered by 413, whatever its header has said.

    Args:
        app: What it stands before.
        limit: Bytes.
    """

    def __init__(self, app: Any, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > self.limit:
            await self._refuse(receive, send)
            return
        seen, ended, begun = 0, False, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen, ended
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit and not begun:
                ended = True
                await self._refuse(receive, send)
            return {"type": "http.disconnect"} if ended else message

        async def once(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if not ended:
                begun = True
                await send(message)

        await self.app(scope, counted, once)

    async def _refuse(self, receive: Receive, send: Send) -> None:
        """Answer 413; a little more is read first, as many clients listen only when they have sent everything."""
        left, more = self.limit, True
        while more and left > 0:
            message = await receive()
            left, more = left - len(message.get("body", b"")), message.get("more_body", False)
        text = b'{"detail":"the request has more than %d bytes: send fewer or smaller images"}' % self.limit
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": text})


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def need_token(host: str, token: str | None) -> None:
    """Refuse to be reached from elsewhere by anybody.

    Raises:
        UserError: The address is no loopback one, and there is no token, or a short one.
    """
    if not is_loopback(host) and len(token or "") < 16:
        raise UserError(
            f"--host {host} lets other machines in: give --token, or VPEFT_TOKEN, of at least 16 characters "
            '(python -c "import secrets; print(secrets.token_urlsafe())").'
        )


def is_known(header: str | None, token: str | None) -> bool:
    """Whether an ``Authorization`` header bears the token, compared in constant time."""
    if token is None:
        return True
    kind, _, given = (header or "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
