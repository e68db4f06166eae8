"""Boards, tasks and metrics in plain words, for people; files and options keep the exact names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vpeft.core.datasets.tasks import TITLES
from vpeft.core.families.metrics import METRIC_WORDS

if TYPE_CHECKING:
    from vpeft.apis.leaderboard.boards import Board

#: How parts of names are written.
SPELLINGS = {"vit": "ViT", "swin": "Swin", "coco": "COCO", "ade20k": "ADE20K", "voc": "VOC"}
#: Parts of a task's name that say again of which family it is.
FAMILY_PARTS = {"classification", "detection", "instances", "segmentation", "video"}


def plain_task(name: str) -> str:
    """A task's name with blanks: ``sprite_count`` is ``sprite count``."""
    return name.replace("_", " ")


def title(board: Board) -> str:
    """What a board is of, in words: ``Image classification: VTAB-1k, 5 training images a class``."""
    parts = [part for part in _parts(board)[:2] if part]
    shots = "" if board.key.shots is None else f", {board.key.shots} training images a class"
    return ": ".join(parts) + shots


def short_titles(boards: Sequence[Board]) -> list[str]:
    """Of each board as little of its title as tells it from the others: family, then place, data, shots."""
    parts = [_parts(board) for board in boards]
    found = [""] * len(boards)
    for length in range(1, 5):
        texts = [", ".join(part for part in every[:length] if part) for every in parts]
        counts = Counter(texts)
        found = [
            old or (text if counts[text] == 1 or length == 4 else "") for old, text in zip(found, texts, strict=True)
        ]
    return found


def _parts(board: Board) -> tuple[str, str, str, str]:
    metric = next(iter(board.results.runs.values()))["main_metric"]["name"]
    family = METRIC_WORDS[metric][0] if metric in METRIC_WORDS else ""
    shots = "all images" if board.key.shots is None else f"{board.key.shots} images a class"
    return family, TITLES.get(board.key.name) or _place(board.key.name), board.key.data_variant, shots


def _place(name: str) -> str:
    """``nano_swin_detection`` is ``nano Swin``, ``swin-l_coco`` is ``Swin-L COCO``."""
    words = [word for word in name.split("_") if word not in FAMILY_PARTS] or [name]
    return re.sub(r"[a-z0-9]+", _spelt, " ".join(words)) if re.fullmatch(r"[\w .+-]+", name) else name


def _spelt(word: re.Match[str]) -> str:
    text = word[0]
    return SPELLINGS.get(text) or (text.upper() if len(text) == 1 and word.start() else text)
