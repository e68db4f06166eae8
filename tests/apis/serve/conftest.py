"""Runs of several methods and tasks on one base, and a server of them."""

import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
import uuid

import pytest
from support.families import family_run

from vpeft.apis.serve.limits import Limits
from vpeft.apis.serve.served import Served

#: By task: the config of the run.
RUNS = {"digits": "lora_nano_vit", "photos": "adaptformer_nano_vit", "tissue": "bitfit_nano_vit"}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Folders of runs by their tasks."""
    root = tmp_path_factory.mktemp("served")
    return {t: family_run(root, "classes", recipe=name, task=t, seed=i) for i, (t, name) in enumerate(RUNS.items())}


@pytest.fixture(scope="session")
def served(runs):
    """Two of them that can be mixed."""
    return Served({name: runs[name] for name in ("digits", "photos")}, device="cpu")


class Client:
    """Asks a server."""

    def __init__(self, port):
        self.port, self.url = port, f"http://127.0.0.1:{port}"

    def get(self, path, headers=None):
        return self.send(urllib.request.Request(self.url + path, headers=headers or {}))

    def post(self, path, *files, headers=None):
        """Status and answer; files are pairs of a name and bytes."""
        mark = uuid.uuid4().hex
        parts = [
            f'--{mark}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
            + data
            + b"\r\n"
            for name, data in files
        ]
        body = b"".join([*parts, f"--{mark}--\r\n".encode()])
        kind = {"Content-Type": f"multipart/form-data; boundary={mark}", **(headers or {})}
        return self.send(urllib.request.Request(self.url + path, body, kind))

    def send(self, request):
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                data, status = answer.read(), answer.status
        except urllib.error.HTTPError as error:
            data, status = error.read(), error.code
        with contextlib.suppress(ValueError):
            data = json.loads(data)
        return status, data


@contextlib.contextmanager
def serving(app):
    """A client of an application that runs in a thread."""
    import uvicorn

    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < until
        time.sleep(0.02)
    try:
        yield Client(port)
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="session")
def serve():
    """Runs an application: a context that gives its client."""
    return serving


@pytest.fixture(scope="session")
def client(served):
    from vpeft.apis.serve.app import make_app

    with serving(make_app(served, limits=Limits(body=2**20, pixels=10**6, images=3))) as found:
        yield found
