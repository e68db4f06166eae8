"""Data inside the script of a page."""

from __future__ import annotations

import json
from typing import Any

#: Signs that could end the script, begin another one, or end a line of it.
SIGNS = {sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def script_json(data: Any) -> str:
    """JSON that may stand in a ``<script>``: nothing in it ends the script or begins another one.

    Raises:
        ValueError: It holds NaN or infinity, which JSON has not.
    """
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for sign, escape in SIGNS.items():
        text = text.replace(sign, escape)
    return text
