"""The interface: what it answers, what it refuses, and that it stands."""

import concurrent.futures
import contextlib
import http.client
import io
import os
import random
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vpeft
from vpeft.apis.serve.app import make_app

TOKEN = "0123456789abcdef"


def png(seed=0, size=(40, 50)):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_it_answers_as_the_run_does(client, runs):
    status, found = client.post("/predict?adapter=photos&top=2", ("a.png", png(1)), ("b.png", png(2)))
    assert status == 200
    assert found["adapter"] == "photos"
    run = vpeft.load(runs["photos"], device="cpu")
    for seed, one in enumerate(found["predictions"], start=1):
        wanted = run.predict(Image.open(io.BytesIO(png(seed))), top=2)[0].as_json()["classes"]
        assert [part["class"] for part in one["classes"]] == [part["class"] for part in wanted]
        assert [part["score"] for part in one["classes"]] == pytest.approx([part["score"] for part in wanted], rel=1e-4)
    assert [one["file"] for one in found["predictions"]] == ["a.png", "b.png"]


def test_what_is_served_is_said(client, served):
    status, found = client.get("/adapters")
    assert status == 200
    assert [(one["name"], one["count"]) for one in found] == [("digits", 10), ("photos", 8)]
    assert client.get("/health") == (200, {"status": "ok"})
    paths = client.get("/openapi.json")[1]["paths"]
    assert set(paths) == {"/health", "/adapters", "/predict"}


def test_what_is_wrong_is_said_and_the_others_go_on(client):
    status, found = client.post("/predict?adapter=digits", ("broken.png", png()[:200]), ("good.png", png()))
    assert status == 200
    assert "broken.png is truncated or no image" in found["predictions"][0]["reason"]
    assert len(found["predictions"][1]["classes"]) == 5
    assert client.post("/predict?adapter=dogs", ("a.png", png()))[0] == 404
    status, found = client.post("/predict", ("a.png", png()))
    assert (status, found["detail"]) == (404, "adapter None is none of those served: digits, photos.")
    assert client.post("/predict?adapter=digits")[0] == 422
    assert client.post("/predict?adapter=digits&top=0", ("a.png", png()))[0] == 422
    assert client.post("/predict?adapter=digits", *[("a.png", png())] * 4)[0] == 413
    status, found = client.post("/predict?adapter=digits", ("huge.png", bomb()))
    assert "more than 1,000,000 pixels" in found["predictions"][0]["reason"]
    assert client.post("/predict?adapter=digits", ("big.png", os.urandom(2**20)))[0] == 413
    assert client.get("/health", {"Host": "evil.example"})[0] == 400


def test_a_body_without_a_length_is_counted(client):
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=60)
    chunks = iter([b"--x\r\nContent-Disposition: form-data; name=images; filename=a\r\n\r\n"] + [b"0" * 65536] * 40)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        connection.request("POST", "/predict?adapter=digits", chunks, headers, encode_chunked=True)
    with contextlib.suppress(ConnectionResetError):
        assert connection.getresponse().status == 413
    assert client.get("/health")[0] == 200


def test_a_token_is_asked_for(served, serve):
    with serve(make_app(served, TOKEN, host="0.0.0.0")) as client:
        assert client.get("/health")[0] == 200
        assert client.get("/adapters")[0] == 401
        status, found = client.post("/predict?adapter=digits", ("a.png", png()))
        assert (status, found["detail"]) == (401, "no token, or another: Authorization: Bearer TOKEN.")
        assert client.get("/adapters", {"Authorization": f"Bearer {TOKEN}x"})[0] == 401
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/predict?adapter=digits", ("a.png", png()), headers=bearer)[0] == 200


def bomb():
    """A picture of few bytes that states 900 million pixels."""
    file = io.BytesIO()
    Image.new("1", (3_000, 3_000)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def hostile(rng):
    """The raw bytes of a request that nobody means well with."""
    bodies = [
        b"",
        os.urandom(rng.randrange(1, 5000)),
        png()[: rng.randrange(1, 2000)],
        b"\x89PNG\r\n\x1a\n" + bytes(99),
    ]
    bodies += [bomb(), b"%!PS\n(/etc/passwd) run", b"<svg><image href='file:///etc/passwd'/></svg>"]
    body = rng.choice(bodies)
    name = rng.choice(["a.png", "../../etc/passwd", "/etc/passwd", "a\\..\\b", "\u202e.png", "x" * 5000, "", "%00"])
    form = (
        f'--x\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
        + body
        + b"\r\n--x--\r\n"
    )
    kind = rng.choice(
        ["multipart/form-data; boundary=x"] * 5 + ["application/json", "multipart/form-data", "", "text/xml"]
    )
    path = rng.choice(
        ["/predict?adapter=digits"] * 6
        + ["/predict?adapter=../digits", "/../../etc/passwd", "/predict?top=1e9", "/%2e%2e/"]
    )
    length = rng.choice([len(form)] * 8 + [len(form) // 2, 10**12, -1])
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {length}"]
    head = "\r\n".join([*lines, "Connection: close", "", ""])
    return head.encode("latin-1", "replace") + form


def send(port, data):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as one:
        one.sendall(data)
        one.shutdown(socket.SHUT_WR)
        return one.recv(2**16)
    return b""


def memory():
    """What this process holds, in kB."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_it_survives_a_thousand_hostile_requests_at_once(client):
    rng = random.Random(0)
    requests = [hostile(rng) for _ in range(1000)]
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        list(pool.map(lambda data: send(client.port, data), requests[:200]))  # what is allocated once
        before = memory()
        answers = list(pool.map(lambda data: send(client.port, data), requests))
    assert memory() - before < 200_000  # kB
    assert not any(b"root:" in answer for answer in answers)
    assert not any(b" 500 " in answer[:40] for answer in answers)
    assert client.get("/health") == (200, {"status": "ok"})
    assert client.post("/predict?adapter=digits", ("good.png", png()))[0] == 200
