"""List what exists: methods, hosts, configs, or the adapters of the zoo."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say

#: Fields that only ``--json`` shows.
DETAILS = (
    *("hyper_parameters", "unverified", "start", "merges_with"),
    *("config", "methods", "head", "seed", "commit", "sha256"),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("what", help="methods, hosts, configs or zoo")
    parser.add_argument("--json", action="store_true", help="machine-readable, with every field")
    args = parser.parse_args(argv)
    from vpeft.apis.catalogue import catalogue, catalogue_rows
    from vpeft.errors import printable

    if args.json:
        say(json.dumps(catalogue(args.what), indent=2))
        return
    rows = catalogue_rows(args.what)
    columns = [key for key in rows[0] if key not in DETAILS] if rows else ["name"]
    # Names are typed again, so they are never cut off, however narrow the terminal is.
    table = Table(*(Column(name, overflow="fold", no_wrap=not i) for i, name in enumerate(columns)))
    for row in rows:
        table.add_row(*(Text(printable(row[column])) for column in columns))
    Console().print(table)
