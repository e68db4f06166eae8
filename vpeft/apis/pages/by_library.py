"""The page of hosts: by library and family, with what each takes, and what of timm is still refused."""

from __future__ import annotations

import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import product
from string import ascii_lowercase

from vpeft.apis.pages.catalogue import CatalogueRow, read_catalogue, untried, whole_hosts
from vpeft.apis.pages.names import NamesRow, read_names
from vpeft.apis.pages.table import markdown_row
from vpeft.registry import HOSTS, PEFT_METHODS


def family_of_host(host: str) -> str:
    """The architecture that a host, or ``<host>/<variant>``, belongs to: how its file is named."""
    return HOSTS.module_dict[host.split("/")[0]].__module__.rsplit(".", 1)[1]


def _library(host: str) -> str:
    """The package that a host is of."""
    return host.split(".", 1)[0]


def hosts_page() -> str:
    """The page, as Markdown."""
    found = whole_hosts(read_catalogue())
    letters = dict(zip(_classes_of_reasons(found), _letters()))  # noqa: B905  (letters have no end)
    lines = [
        "# Hosts by library",
        "",
        "Written by `tools/methods_page.py`; do not edit by hand. A host reads the classes that stand beside it, and",
        "no subclass of them; [docs/hosts.md](hosts.md) says what a host is, and what becomes of other networks.",
        "",
        f"{len(HOSTS)} hosts, {sum(len(cls.targets) for cls in HOSTS.module_dict.values())} classes. Numbers are of",
        f"methods that passed [the whole matrix](hosts.md#tests), of {len(PEFT_METHODS) - len(untried(found))};",
        "`?`: not gone through yet."
        + (f" Methods that are new to it: {', '.join(untried(found))}." if untried(found) else ""),
        "",
        *_families(found),
    ]
    for name in _libraries():
        lines += ["", f"## {name}", "", *_hosts(name, found, letters)]
    lines += ["", "## Why a method is not there", ""]
    lines += [f"- **{letter}**: {words}" for words, letter in letters.items()]
    return "\n".join([*lines, "", *_refused(read_names())]) + "\n"


def _libraries() -> list[str]:
    return sorted({_library(host) for host in HOSTS.module_dict})


def _families(found: Iterable[CatalogueRow]) -> list[str]:
    """How many methods the hosts take, by family and library."""
    takes: dict[str, int] = defaultdict(int)
    for one in found:
        takes[one.host] += one.result == "passed"
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for host in sorted(HOSTS.module_dict):
        places[family_of_host(host), _library(host)].append(str(takes.get(host, "?")))
    lines = [markdown_row("family", *_libraries()), markdown_row(*["---"] * (1 + len(_libraries())))]
    for name in sorted({name for name, _ in places}):
        lines.append(markdown_row(name, *(", ".join(places.get((name, of), [])) for of in _libraries())))
    return lines


def _hosts(of: str, found: list[CatalogueRow], letters: dict[str, str]) -> list[str]:
    rows: dict[str, list[CatalogueRow]] = defaultdict(list)
    for one in found:
        rows[one.host].append(one)
    own = sorted({*HOSTS.module_dict, *rows}, key=lambda host: (family_of_host(host), host))
    lines = [markdown_row("family", "host", "classes", "methods", "without", "about"), markdown_row(*["---"] * 6)]
    for host in (host for host in own if _library(host) == of):
        cls = HOSTS.module_dict[host.split("/")[0]]
        without: dict[str, list[str]] = defaultdict(list)
        for one in rows[host]:
            if one.result != "passed":
                without[letters[_class_of_reason(one)]].append(one.method)
        told = "; ".join(f"{', '.join(names)} ({letter})" for letter, names in sorted(without.items()))
        passed = str(sum(one.result == "passed" for one in rows[host])) if rows[host] else "?"
        variant = host.partition("/")[2]
        about = f"its blocks with the option `{variant}`" if variant else _about(cls)
        classes = "" if variant else ", ".join(f"`{target.rsplit('.', 1)[1]}`" for target in cls.targets)
        lines.append(markdown_row(family_of_host(host), f"`{host}`", classes, passed, told, about))
    return lines


def _about(cls: type) -> str:
    return " ".join(inspect.getdoc(cls).split()).replace("``", "`")


def _class_of_reason(one: CatalogueRow) -> str:
    """A reason without the names of host and method, and without the numbers of blocks."""
    host = one.host.split("/")[0]
    words = one.reason.replace(f"this {host}", host).replace(f"host {host}", host).replace(host, "the host")
    words = re.sub(re.escape(one.method), "the method", words, flags=re.IGNORECASE)
    words = words.split(" did you mean ")[0].split(" Known: ")[0]
    return re.sub(r"\b\d+(?:, \d+)*\b", "n", words)


def _classes_of_reasons(found: Iterable[CatalogueRow]) -> list[str]:
    """All of them, the most frequent first."""
    counts = Counter(_class_of_reason(one) for one in sorted(found) if one.result != "passed")
    return [words for words, _ in counts.most_common()]


def _letters() -> Iterator[str]:
    yield from ascii_lowercase
    yield from map("".join, product(ascii_lowercase, repeat=2))


def _refused(found: list[NamesRow]) -> list[str]:
    """What of timm no host reads, by module."""
    modules: dict[str, list[NamesRow]] = defaultdict(list)
    for row in found:
        modules[row.module].append(row)
    every = sum(row.count for row in found)
    read = sum(row.count for row in found if row.result != "refused")
    lines = [
        "## What of timm is still refused",
        "",
        f"Of {every} transformer-like names of timm hosts read {read} "
        "(`benchmarks/hosts/timm_names.py` asks each: LoRA,",
        "AdaptFormer, BitFit, SSF and Mona must attach). To the others LoRA, SSF and what else needs no blocks attach",
        "by the [generic host](hosts.md#any-other-network). All names are in `vpeft/apis/pages/timm_names.csv`;",
        "modules that stand neither in the table nor below it have not been asked yet.",
        "",
        markdown_row("module", "names", "read", "refused"),
        markdown_row(*["---"] * 4),
    ]
    for module, rows in modules.items():
        refused = [row for row in rows if row.result == "refused"]
        if not refused:
            continue
        names = sum(row.count for row in rows)
        told = "; ".join(f"{row.count}: {row.reason}" for row in refused)
        lines.append(markdown_row(module, str(names), str(names - sum(row.count for row in refused)), told))
    whole = [name for name, rows in modules.items() if all(row.result != "refused" for row in rows)]
    return [*lines, "", f"Read as a whole: {', '.join(whole)}."]
