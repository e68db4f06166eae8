"""Write the pages of methods, hosts, taxonomy and trivial cues, and the families' matrices (docs/)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vpeft.apis.commands.arguments import Parser
from vpeft.apis.commands.ending import say


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="the folder of the pages")
    parser.add_argument("--configs", default="configs", help="the folder of the configs")
    args = parser.parse_args(argv)
    from vpeft.apis.pages.by_library import hosts_page
    from vpeft.apis.pages.families import PAGES, with_matrix
    from vpeft.apis.pages.methods import methods_page
    from vpeft.apis.pages.taxonomy import taxonomy_page
    from vpeft.apis.pages.trivial_cues import cues_page
    from vpeft.files import write_atomically

    say(write_atomically(args.docs / "hosts_by_library.md", hosts_page().encode()))
    say(write_atomically(args.docs / "methods.md", methods_page(args.configs).encode()))
    say(write_atomically(args.docs / "taxonomy.md", taxonomy_page(args.configs).encode()))
    say(write_atomically(args.docs / "trivial_cues.md", cues_page(args.docs / "embedded").encode()))
    for family in PAGES:
        page = args.docs / f"{family}.md"
        say(write_atomically(page, with_matrix(page.read_text(), family, args.configs).encode()))
