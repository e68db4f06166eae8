"""How long does it take to save an adapter file, and to put it into a fresh model?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vpeft  # isort: skip  mends torchvision

import timm


def times(name: str, build: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the processor, by what is done, of a LoRA of rank 8.

    Args:
        name: A model of timm.
        build: Further options of it.
        rounds: Times of each, after one that warms up.
    """
    model = timm.create_model(name, num_classes=10, **build)
    vpeft.attach(model, {"type": "LoRA", "rank": 8})
    fresh = timm.create_model(name, num_classes=10, **build)
    fresh.load_state_dict(vpeft.plain_state_dict(model))
    found: dict[str, list[float]] = {"save an adapter file": [], "load it into a fresh model": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        for number in range(rounds + 1):
            save = _milliseconds(lambda: vpeft.save_adapter(model, path))
            load = _milliseconds(lambda: vpeft.load_adapter(fresh, path))
            vpeft.detach(fresh)
            if number:
                found["save an adapter file"].append(save)
                found["load it into a fresh model"].append(load)
    return found


def _milliseconds(deed: Callable[[], Any]) -> float:
    start = time.process_time()
    deed()
    return 1e3 * (time.process_time() - start)
