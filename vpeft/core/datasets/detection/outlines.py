"""Outlines of COCO files, looked at before pycocotools sees them: what is none ends its process without a word."""

from __future__ import annotations

import sys
from typing import Any

#: Sides of an image, and how far from its corner an outline may reach, in pixels; and pixels of an image.
MOST_SIDE, MOST_PIXELS = 1 << 16, 1 << 30


def outline_fault(value: Any, size: tuple[int, int]) -> str | None:
    """What is wrong with an outline, to go on after its name; None of one that can be drawn, or where there is none.

    Args:
        value: Polygons, each a list of x and y by turns; or a run-length code, ``size`` and ``counts``.
        size: Height and width of its image.
    """
    if isinstance(value, dict):
        return _code_fault(value, size)
    if value is None:
        return None
    if not isinstance(value, list) or not all(
        isinstance(one, list) and all(map(is_finite_number, one)) for one in value
    ):
        return "is neither polygons nor a run-length code"
    if any(abs(number) > MOST_SIDE for polygon in value for number in polygon):
        return f"reaches further than {MOST_SIDE:,} pixels"
    return None


def is_finite_number(value: Any) -> bool:
    """Whether a value is a number that floating point holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_size(height: Any, width: Any) -> bool:
    """Whether these are an image's."""
    sides = type(height) is int and type(width) is int and min(height, width) > 0
    return sides and max(height, width) <= MOST_SIDE and height * width <= MOST_PIXELS


def _code_fault(value: dict[str, Any], size: tuple[int, int]) -> str | None:
    counts = value.get("counts")
    if not isinstance(counts, (str, list)):
        return "is neither polygons nor a run-length code"
    if value.get("size") != list(size):
        return f"is a run-length code of the size {value.get('size')}, and its image of {list(size)}"
    if isinstance(counts, list):
        whole = all(type(count) is int and count >= 0 for count in counts) and sum(counts) == size[0] * size[1]
        return None if whole else "is a run-length code of another number of pixels"
    from pycocotools.mask import decode

    try:
        decode({"size": list(size), "counts": counts})
    except Exception as error:  # it raises several kinds
        return f"is no run-length code ({type(error).__name__})"
    return None
