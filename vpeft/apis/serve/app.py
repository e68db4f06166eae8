"""The HTTP interface, with FastAPI: ``/predict``, ``/adapters``, ``/health``, a page, and OpenAPI's description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Header, HTTPException, Query, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from vpeft.apis.serve.batches import Batches, Busy
from vpeft.apis.serve.limits import BodyLimit, Decoder, Limits, is_known, is_loopback
from vpeft.apis.serve.served import Asked, Served
from vpeft.errors import UserError, printable

PAGE = Path(__file__).with_name("page.html")
#: What the page may do: run what stands in it, ask this server, show pictures that were dropped on it.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'"
)


def make_app(
    served: Served,
    token: str | None = None,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    batch_size: int = 16,
    wait: float = 0.005,
) -> FastAPI:
    """The application.

    Args:
        served: What answers.
        token: What a client has to bear (``Authorization: Bearer ...``); None lets everybody in.
        limits: What a client may send.
        host: The address that it is served at. On a loopback one only requests to this machine's own names are
            answered, so that no page of somebody else's can reach it by a name of its own.
        batch_size: Images of a pass at most.
        wait: Seconds that the first image of a pass waits for others.
    """
    limits = limits or Limits()
    batches = Batches(served, batch_size, wait)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(batches.close)

    app = FastAPI(title="V-PEFT Bench", summary="Fine-tuned vision models, several on one base.", lifespan=lifespan)
    app.add_middleware(BodyLimit, limit=limits.body)
    if is_loopback(host):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", host])

    def known(authorization: Annotated[str | None, Header()] = None) -> None:
        if not is_known(authorization, token):
            raise HTTPException(
                401, "no token, or another: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"}
            )

    _say_what_is_there(app, served, batches, known)
    _answer(app, served, batches, limits, known)
    return app


def _say_what_is_there(app: FastAPI, served: Served, batches: Batches, known: Callable[..., None]) -> None:
    """The page, ``/health`` and ``/adapters``."""

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": POLICY})

    @app.get("/health")
    def health() -> dict[str, Any]:
        """Whether the model answers."""
        if not batches.alive:
            raise HTTPException(503, "the model's thread has ended: start the server again.")
        return {"status": "ok"}

    @app.get("/adapters", dependencies=[Depends(known)])
    def adapters() -> list[dict[str, Any]]:
        """What is served: name, family, number of classes, and their names where the run knows them."""
        return [
            {"name": name, "family": run.family, "count": served.counts[name], "classes": list(run.classes)}
            for name, run in served.runs.items()
        ]


def _answer(app: FastAPI, served: Served, batches: Batches, limits: Limits, known: Callable[..., None]) -> None:
    """``/predict``."""
    decode = Decoder(limits)

    @app.post("/predict", dependencies=[Depends(known)])
    async def predict(
        images: Annotated[list[UploadFile], File(description="Image files.")],
        adapter: Annotated[str | None, Query(description="Whose answer; may be left out where one is served.")] = None,
        top: Annotated[int, Query(ge=1, le=1000, description="Classes of an image that has one.")] = 5,
        threshold: Annotated[float | None, Query(ge=0, le=1, description="Least score of boxes.")] = None,
    ) -> dict[str, Any]:
        """Predictions in the order of the images; one that cannot be read has a ``reason`` in their place."""
        name = _refusing(404, lambda: served.need(adapter))
        if len(images) > limits.images:
            raise HTTPException(413, f"{len(images)} images in a request: at most {limits.images}.")
        found = [_one(file, name, top, threshold, served, batches, decode) for file in images]
        return {"adapter": name, "predictions": await asyncio.gather(*found)}


async def _one(
    file: UploadFile,
    adapter: str,
    top: int,
    threshold: float | None,
    served: Served,
    batches: Batches,
    decode: Decoder,
) -> dict[str, Any]:
    """The answer for one image, or why there is none."""
    name = printable(Path(file.filename or "image").name)[:200] or "image"
    data = await file.read()

    def read() -> Any:
        return served.read(adapter, decode(data, name))

    try:
        sample = await run_in_threadpool(read)
        answer = batches.ask(Asked(adapter, name, sample, top, threshold))
    except UserError as error:
        return {"file": name, "reason": str(error)}
    except Busy as error:
        raise HTTPException(503, "too many images wait: ask again in a moment.", {"Retry-After": "1"}) from error
    try:
        return (await asyncio.wrap_future(answer)).as_json()
    except UserError as error:
        return {"file": name, "reason": str(error)}


def _refusing(status: int, deed: Any) -> Any:
    try:
        return deed()
    except UserError as error:
        raise HTTPException(status, str(error)) from error
