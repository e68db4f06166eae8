"""The matrix of a task family: every method on every recipe, with parameters beside the published figures."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from vpeft.apis.config.recipes import Recipe, recipes, rows_of_table
from vpeft.apis.pages.methods import PUBLISHED, agrees
from vpeft.apis.pages.table import markdown_row
from vpeft.core.adaptation.attach import attach
from vpeft.core.contract.build import build_method
from vpeft.core.models.build import build_model, meta_build
from vpeft.errors import UserError

#: What stands before and behind the generated part of a page.
BEGIN, END = "<!-- methods: written by tools/methods_page.py -->", "<!-- end of methods -->"
#: The pages, and the recipes that each shows: folders of configs with the library whose models they are.
PAGES = {"detection": "mmdet", "segmentation": "mmseg", "video": "mmaction"}


def family_recipes(family: str, root: str = "configs") -> dict[str, Recipe]:
    """Recipes of a family, the embedded ones last, by ``<folder>/<name>``."""
    found = {f"{family}/{name}": recipe for name, recipe in recipes(Path(root) / family).items()}
    for name, recipe in recipes(Path(root) / "mini").items():
        if recipe.load(imports=False).get("default_scope") == PAGES[family]:
            found[f"mini/{name}"] = recipe
    return found


def family_matrix(family: str, root: str = "configs") -> str:
    """Trained parameters of the backbone for every method and recipe of a family, as Markdown.

    Recipes that differ in their data alone share a column.
    """
    published = json.loads(PUBLISHED.read_text())["methods"]
    columns = list(_columns(family_recipes(family, root)))
    head = ["method"]
    for column in columns:
        head += [column.title, "published"] if column.printed else [column.title]
    lines = [markdown_row(*head, "note"), markdown_row(*["---"] * (len(head) + 1))]
    reasons: dict[str, list[str]] = {}
    for name in columns[0].methods:
        cells, kind = [], columns[0].methods[name]["type"]
        entry = published.get(kind, {})
        for column in columns:
            count = column.count(name)
            if isinstance(count, str):
                reasons.setdefault(count, []).append(f"{name} ({column.title})")
            cells.append("-" if isinstance(count, str) else f"{count / 1e6:.4f}")
            if column.printed:
                printed = entry.get(column.printed, "")
                cells.append(printed + ("" if isinstance(count, str) else agrees(count, printed)))
        shown = any(entry.get(column.printed) for column in columns if column.printed)
        lines.append(markdown_row(f"{name} ({kind})", *cells, entry.get("note", "") if shown else ""))
    lines += ["", "Not there, and why:", ""]
    lines += [f"- {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "\n".join(lines)


def with_matrix(page: str, family: str, root: str = "configs") -> str:
    """A page's text with its generated part written anew.

    Raises:
        UserError: The page has no place for it.
    """
    if BEGIN not in page or END not in page:
        raise UserError(f"docs/{family}.md has no lines {BEGIN!r} and {END!r} between which the matrix could stand.")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{family_matrix(family, root)}\n\n{END}{rest.split(END)[1]}"


class _Column:
    """Recipes with one backbone and one table of methods."""

    def __init__(self, title: str, recipe: Recipe) -> None:
        self.cfg = recipe.load()
        self.title = title
        self.methods, _ = rows_of_table(self.cfg, recipe.folder)
        self.without = self.cfg.get("without", {})
        self.printed = self.cfg.get("published")
        self.same = (self.cfg.model.backbone, self.cfg.methods_table, self.without)
        with meta_build():
            self.backbone: nn.Module = build_model(self.cfg).backbone

    def count(self, name: str) -> int | str:
        """Parameters of a method, or why it is not there."""
        if name in self.without:
            return self.without[name]
        try:
            with meta_build():
                (adaptation,) = attach(self.backbone, [build_method(self.methods[name])])
        except UserError as error:
            return str(error)
        count = adaptation.count()
        adaptation.detach()
        return count


def _columns(found: dict[str, Recipe]) -> list[_Column]:
    columns: list[_Column] = []
    for name, recipe in found.items():
        new = _Column(f"`{name}`", recipe)
        twin = next((c for c in columns if c.same == new.same), None)
        if twin is None:
            columns.append(new)
        else:
            twin.title += f", `{name}`"
    return columns
