"""The page of the survey's taxonomy: what of it is here, under which name, or why not; and its table's columns."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vpeft.apis.pages.methods import PUBLISHED, agrees, count_on, shipped_options
from vpeft.apis.pages.properties import every_method, properties
from vpeft.apis.pages.table import markdown_row
from vpeft.core.contract.build import build_method
from vpeft.registry import PEFT_METHODS

TAXONOMY = Path(__file__).with_name("taxonomy.csv")
#: Entries of the figure, and of its authors' own list as far as it could be read.
IN_FIGURE, IN_LIST = 101, 85
LIST = "https://github.com/synbol/Awesome-Parameter-Efficient-Transfer-Learning"
COMMIT = "000784bc5b985ad9449ac826d78a3155a692502f"
#: Where an entry is from.
SOURCES = {
    "list": f"the list of the survey's authors, README.md of {LIST} at commit `{COMMIT[:10]}`",
    "benchmark": "the methods of the benchmark in version 5 of the paper; whether the figure has them is not verified",
    "named": "named in the text of version 5; whether the figure has them is not verified",
}
COLUMNS = ("no modules", "structure", "inference", "memory")
HEAD = """\
# The survey's taxonomy

Written by `tools/methods_page.py` from `vpeft/apis/pages/taxonomy.csv` and the methods; do not edit by hand.

*Parameter-Efficient Fine-Tuning for Pre-Trained Vision Models: A Survey* (Xin et al., arXiv 2402.02242) sorts the
field in its Fig. 2, which has {figure} entries. **The figure itself was not at hand.** The rows below are the {rows}
of {source} (early 2024; two papers stand in two categories).

**Not verified:** which {more} more the figure has, the entries of its fourth category (multi-task tuning), which the
list does not know, and the names that the figure gives. Categories, venues and whether there is code are as the list
says. The rows under *Beyond the list* are from the paper's later version.

Of the {rows} rows {here} are here.
"""
TABLE = """\
## The table of categories

The survey's Table II marks each category. Its printed marks were not at hand: nothing is compared with them, and the
words for its columns are ours. These marks are worked out from every method as it is here, with its defaults,
attached to a tiny ViT (for clips where they look from frame to frame):

- **no modules**: needs no additional modules, in training neither;
- **structure**: structure preserving; trained, and merged where it can be, the network is the plain one, at most with
  more tokens or keys in it;
- **inference**: inference efficient; nothing is computed beside the plain network, once it is merged;
- **memory**: memory efficient; gradients need not pass all blocks (classes M0 and M1);
- **trained numbers**: the count on a plain ViT of L blocks of width D, heads of width 64 and an MLP of 4 D (norms and
  biases everywhere, images of 224 in patches of 16), read off the method's closed formula at six sizes and true at
  two more; empty where it is no such polynomial (ranks or factors that follow from D).
"""
WITHIN = """\

Within {split} the methods differ in some column: a mark for a category says what most of it does. GPS adds no module
in its paper; here it keeps what it selects beside the frozen weights until it is merged.
"""
COUNTS = """\
## Where printed counts differ from the formula

The survey's VTAB-1k table prints millions of trained numbers on ViT-B/16, without the head in most rows. These are
not what the formula gives with the settings of `configs/vtab/`; [all counts](methods.md#parameters).
"""


@dataclass(frozen=True)
class Entry:
    """One entry of the taxonomy.

    Attributes:
        category: The survey's.
        entry: Its name there, or a short one.
        paper: Title; empty where the source names the method alone.
        venue: As the source says.
        arxiv: Number, where the source links it.
        code: Whether the source links code: yes, no, or empty.
        here: Names of methods here, spaces between; some may not be registered (yet).
        why: Why it is not here, where it is not.
        source: One of :data:`SOURCES`.
    """

    category: str
    entry: str
    paper: str
    venue: str
    arxiv: str
    code: str
    here: str
    why: str
    source: str

    def methods(self) -> list[str]:
        """The registered methods that are it; spelling of names aside."""
        known = {_plain(name): name for name in PEFT_METHODS.module_dict}
        return [known[_plain(name)] for name in self.here.split() if _plain(name) in known]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def read_taxonomy(path: Path = TAXONOMY) -> list[Entry]:
    """Every entry, in the order of the source."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Entry(**row) for row in csv.DictReader(file)]


def taxonomy_page(root: str = "configs") -> str:
    """The page, as Markdown."""
    entries = read_taxonomy()
    return "\n".join([*_head(entries), *_entries(entries), *_others(entries), *_columns(), *_counts(root)]) + "\n"


def _head(entries: list[Entry]) -> list[str]:
    here = sum(bool(one.methods()) for one in entries if one.source == "list")
    more = IN_FIGURE - IN_LIST
    return [HEAD.format(figure=IN_FIGURE, rows=IN_LIST, source=SOURCES["list"], more=more, here=here)]


def _entries(entries: list[Entry]) -> Iterable[str]:
    for source, title in (("list", "In the list"), ("benchmark", "Beyond the list"), ("named", "")):
        rows = [one for one in entries if one.source == source]
        if title:
            yield from [
                f"## {title}",
                "",
                markdown_row("category", "entry", "here", "paper"),
                markdown_row(*["---"] * 4),
            ]
        yield from (markdown_row(one.category, one.entry, _here(one), _paper(one)) for one in rows)
        if source != "benchmark":
            yield ""
    yield f"Adapter to BAPAT: {SOURCES['benchmark']}. The others: {SOURCES['named']}."
    yield ""


def _here(one: Entry) -> str:
    names = one.methods()
    return ", ".join(f"**{name}**" for name in names) if names else f"no: {one.why}"


def _paper(one: Entry) -> str:
    link = f", [{one.arxiv}](https://arxiv.org/abs/{one.arxiv})" if one.arxiv else ""
    code = {"yes": "; code", "no": "; no code listed", "": ""}[one.code]
    return f"{one.paper}, {one.venue}{link}{code}" if one.paper else SOURCES[one.source].partition(";")[0]


def _others(entries: list[Entry]) -> list[str]:
    named = {name for one in entries for name in one.methods()}
    others = [f"{name} ({PEFT_METHODS.get(name).category})" for name in every_method() if name not in named]
    return ["## Here and in none of these", "", f"{', '.join(others)}.", ""]


def _columns() -> list[str]:
    """The columns of the survey's table of categories, from the methods themselves."""
    rows = {name: properties(name) for name in every_method()}
    marks: dict[str, list[tuple[bool, ...]]] = defaultdict(list)
    for name, one in rows.items():
        marks[PEFT_METHODS.get(name).category].append(_marks(one))
    lines = [
        TABLE,
        markdown_row("category", "methods", *COLUMNS),
        markdown_row(*["---"] * (2 + len(COLUMNS))),
    ]
    for category, found in marks.items():
        share = [f"{sum(column)} of {len(found)}" for column in zip(*found, strict=True)]
        lines.append(markdown_row(category, str(len(found)), *share))
    split = [name for name, found in marks.items() if len(set(found)) > 1]
    lines += [
        WITHIN.format(split=", ".join(split)),
        markdown_row("category", "method", *COLUMNS, "trained numbers"),
        markdown_row(*["---"] * (3 + len(COLUMNS))),
    ]
    for name, one in rows.items():
        shown = ["yes" if mark else "no" for mark in _marks(one)]
        lines.append(markdown_row(PEFT_METHODS.get(name).category, name, *shown, one.formula))
    return [*lines, ""]


def _marks(one: object) -> tuple[bool, ...]:
    return one.no_modules, one.keeps_structure, one.free_inference, one.saves_memory


def _counts(root: str) -> list[str]:
    """Where a printed count is not the one that its formula gives."""
    published, options = json.loads(PUBLISHED.read_text())["methods"], shipped_options(root)
    lines = [
        COUNTS,
        markdown_row("method", "formula", "printed", "what explains it"),
        markdown_row(*["---"] * 4),
    ]
    for name in every_method():
        entry = published.get(name, {})
        if not (printed := entry.get("ViT-B/16")):
            continue
        changed = {**options.get((name, "vit"), {}), **entry.get("options", {}).get("vit", {})}
        count = count_on("ViT-B/16", build_method({"type": name, **changed}))
        if not agrees(count, printed) and count:
            lines.append(markdown_row(name, f"{count / 1e6:.4f}", printed, entry.get("note", "unexplained")))
    return lines
