"""What trivial cues reach on the embedded tasks, beside the frozen host's probe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from vpeft.apis.baselines.stored import FILE, read_baselines
from vpeft.apis.pages.table import markdown_row
from vpeft.core.datasets.tasks import TITLES

HEAD = """# Trivial cues

Written by `tools/methods_page.py` from `embedded/{file}`, which `vpeft baselines` has measured; do not edit by hand.

How much of a task can be had without a pretrained host? Chance, and a logistic regression on the mean colour (which
holds every sum over a channel), on the pixels, on what 64 random filters of 5 x 5 pixels answer (averaged over the
image, and over 4 x 4 places), on how frames differ, and on the same host with random weights. Each is chosen on the
validation images and tested once, in percent. *Frozen host* is the same classifier on the pretrained host, which stays
as it is. The last column is how far it is above the best cue: below zero, a task asks for no features of this host.
"""


def cues_page(root: str | os.PathLike[str]) -> str:
    """The page, of the file of baselines in a folder of results.

    Raises:
        UserError: The file is damaged.
    """
    text, found = [HEAD.format(file=FILE)], read_baselines(root)
    suites = dict.fromkeys(one["suite"] for one in found if one["suite"] != one["task"])
    parts = {TITLES[suite]: [one for one in found if one["suite"] == suite] for suite in suites}
    clips = [one for one in found if one["suite"] == one["task"]]
    for title, rows in {**parts, "moving shapes": clips}.items():
        if rows:
            text += [f"## {title[0].upper()}{title[1:]}", "", _cue_table(rows), ""]
    return "\n".join(text)


def _cue_table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for one in rows for name in one["values"]))
    lines = [markdown_row("task", "host", *names, "frozen host", "above the best cue")]
    lines.append(markdown_row("---", "---", *["---:"] * (len(names) + 2)))
    for one in rows:
        values, best = one["values"], max(one["values"].values())
        cells = [_shown(values[name], values[name] == best) if name in values else "" for name in names]
        host = one.get("frozen_host")
        above = "" if host is None else f"{100 * (host - best):+.1f}"
        lines.append(
            markdown_row(one["task"], one.get("host", ""), *cells, "" if host is None else _shown(host), above)
        )
    return "\n".join(lines)


def _shown(value: float, strong: bool = False) -> str:
    return f"**{100 * value:.1f}**" if strong else f"{100 * value:.1f}"
