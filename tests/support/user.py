"""A user's own folder: words of the command in processes of their own, outside the repository."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from vpeft.apis.commands.app import word_files

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}


def vpeft(folder, *words, status=0):
    """What ``vpeft WORDS`` prints, called in a folder of the user's."""
    call = [sys.executable, "-m", "vpeft", *map(str, words)]
    done = subprocess.run(call, cwd=folder, env=ENV, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def here(*words):
    """A word in this process, called in the present folder: its exit status."""
    files = word_files()
    file = files[words[0]]
    return import_module(f"vpeft.apis.commands.words.{file.parent.name}.{file.stem}").main([*map(str, words[1:])])


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def server(folder, *runs):
    """The address of ``vpeft serve RUNS``, which is told to end afterwards."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    call = [sys.executable, "-m", "vpeft", "serve", *map(str, runs), "--port", str(port)]
    with (
        open(folder / "serve.log", "w") as log,
        subprocess.Popen(call, cwd=folder, env=ENV, stdout=log, stderr=log) as process,
    ):
        try:
            for _ in range(1200):
                assert process.poll() is None, (folder / "serve.log").read_text()
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=60).read()
                    break
                except urllib.error.URLError:
                    time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(60)


def asked(address, adapter, *files):
    """The best class of each file, by an adapter."""
    boundary = uuid.uuid4().hex
    head = '--{}\r\nContent-Disposition: form-data; name="images"; filename="{}"\r\n\r\n'
    parts = [head.format(boundary, file.name).encode() + file.read_bytes() + b"\r\n" for file in files]
    request = urllib.request.Request(
        f"{address}/predict?adapter={adapter}&top=1",
        data=b"".join(parts) + f"--{boundary}--\r\n".encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    answer = json.loads(urllib.request.urlopen(request, timeout=120).read())
    assert answer["adapter"] == adapter
    return [one["classes"][0]["class"] for one in answer["predictions"]]
