"""Results of a benchmark that ran in parts, on several machines or days."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vpeft.apis.results.files import Results, read_results
from vpeft.errors import UserError


def read_parts(roots: Sequence[str | os.PathLike[str]]) -> Results:
    """Results of several folders or packed files as those of one: parts of a benchmark that ran apart.

    Raises:
        UserError: As :func:`read_results`; or a run is in two of them.
    """
    parts = [read_results(root) for root in roots]
    if len(parts) == 1:
        return parts[0]
    found, of = Results(Path(os.path.commonpath([part.root.absolute() for part in parts]))), {}
    for root, part in zip(roots, parts, strict=True):
        found.broken += part.broken
        for path, result in part.runs.items():
            name = path.relative_to(part.root)
            if name in of:
                raise UserError(f"{of[name]} and {root} both hold {name}: a run counts once; leave one of them out.")
            of[name] = root
            found.runs[path.absolute()] = result
            found.names[path.absolute()] = name
    return found
