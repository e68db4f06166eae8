"""Serve runs over HTTP: several adapters on one base, requests in batches, a page to drop pictures on.

Each RUN is a run's folder or an adapter file, and is asked for by the folder's name; NAME=RUN gives another. Runs that
are served together stand on one base. Only this machine reaches the server unless --host says otherwise, and then it
asks for a token.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from vpeft.apis.commands.arguments import Parser


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders or adapter files, as PATH or NAME=PATH")
    parser.add_argument("--host", default="127.0.0.1", help="address to be reached at (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port (%(default)s)")
    parser.add_argument(
        "--token", help="what clients must bear; better in VPEFT_TOKEN, which no list of processes shows"
    )
    parser.add_argument("--weights", help="the base's file, where it no longer stands where the runs have noted")
    parser.add_argument("--device", help="cpu, cuda, ... (an accelerator where there is one)")
    parser.add_argument("--batch-size", type=int, default=16, help="images of a pass at most (%(default)s)")
    parser.add_argument("--wait-ms", type=float, default=5, help="how long an image waits for others (%(default)s)")
    parser.add_argument("--max-megabytes", type=float, default=32, help="of a request (%(default)s)")
    parser.add_argument("--max-megapixels", type=float, default=50, help="of an image (%(default)s)")
    args = parser.parse_args(argv)
    from vpeft.apis.serve.start import serve

    serve(
        args.runs,
        args.host,
        args.port,
        args.token or os.environ.get("VPEFT_TOKEN"),
        args.weights,
        args.device,
        args.batch_size,
        args.wait_ms / 1e3,
        args.max_megabytes,
        args.max_megapixels,
    )
