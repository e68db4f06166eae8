"""How much faster is an epoch of reading whose images are decoded and resized once?

    OMP_NUM_THREADS=1 python benchmarks/once/data_store.py --images 60 --rounds 5

JPEG files of two sizes are drawn, of a camera's (2000 x 1500) and of 224 pixels, and read through pipelines of
training: to a square, a drawn part of a resized picture, and a drawn and resized part, of which the whole picture is
kept. Plainly and from a store, epoch by epoch in turns, behind an epoch that fills it; a ratio is taken within a round,
of the process's own time. Files and store lie in the system's cache, as in a training that comes back to them. What is
printed besides: how much longer the first epoch takes than a plain one, and whether the inputs have the same bits.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import vpeft  # noqa: F401  # isort: skip  mends torchvision

import mmpretrain.datasets  # noqa: F401  (its transforms)
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DefaultScope
from PIL import Image
from torch import Tensor

from vpeft.core.datasets.decoded import close_store, keep_decoded, open_store

LIMIT = 20 * 10**9
SIZES = {"2000 x 1500": (2000, 1500), "224 x 224": (224, 224)}
LOAD, PACK = {"type": "vpeft.LoadImage"}, {"type": "PackInputs"}
EDGE = {"type": "ResizeEdge", "scale": 256, "edge": "short", "interpolation": "bicubic"}
FLIP = {"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"}
PIPELINES = {
    "square": [LOAD, {"type": "Resize", "scale": (224, 224), "interpolation": "bicubic"}, PACK],
    "edge, drawn crop, flip": [LOAD, EDGE, {"type": "RandomCrop", "crop_size": 224}, FLIP, PACK],
    "drawn part, resized": [LOAD, {"type": "RandomResizedCrop", "scale": 224, "interpolation": "bicubic"}, FLIP, PACK],
}


class Drawn(BaseDataset):
    """The files of a folder."""

    def load_data_list(self) -> list[dict[str, object]]:
        """One row a file."""
        return [{"img_path": str(file), "gt_label": 0} for file in sorted(Path(self.data_root).iterdir())]


def draw(folder: Path, size: tuple[int, int], count: int) -> float:
    """Write JPEG files: large shapes, with the grain of a sensor; their mean size in bytes."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        shapes = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
        smooth = np.asarray(Image.fromarray(shapes).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
        grain = rng.normal(0, 6, smooth.shape).astype(np.float32)
        pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.jpg", quality=90)
    return statistics.mean(file.stat().st_size for file in folder.iterdir())


def epoch(data: BaseDataset, number: int) -> tuple[float, list[Tensor]]:
    """Seconds of CPU of an epoch, and its inputs."""
    random.seed(number)
    np.random.seed(number)
    start = time.process_time()
    found = [data[index]["inputs"] for index in range(len(data))]
    return time.process_time() - start, found


def compare_reading(
    size: str, images: int, rounds: int, names: Iterable[str] = tuple(PIPELINES), folder: str | None = None
) -> Iterator[dict[str, Any]]:
    """Plain epochs of reading against those from a store, for each pipeline.

    Args:
        size: Of the files, one of :data:`SIZES`.
        images: Files.
        rounds: Pairs of epochs.
        names: Of :data:`PIPELINES`.
        folder: Where files and store are put; a temporary one unless given.

    Yields:
        ``name`` of the pipeline; ``ratios``, how many times faster, by round; ``filling``, the first epoch relative to
        a plain one; ``file_megabytes`` and ``megabytes`` of an image in its file and in the store; ``same_bits``.
    """
    DefaultScope.get_instance("data_store", scope_name="mmpretrain")
    with tempfile.TemporaryDirectory(dir=folder) as where:
        files = Path(where) / "images"
        mean = draw(files, SIZES[size], images)
        for name in names:
            plain = Drawn(data_root=str(files), pipeline=PIPELINES[name])
            kept = Drawn(data_root=str(files), pipeline=PIPELINES[name])
            place = Path(where) / name
            keep_decoded(kept, place, LIMIT, print)
            epoch(plain, 0)
            filling = epoch(kept, 0)[0] / epoch(plain, 0)[0]
            ratios, same = [], True
            for number in range(1, rounds + 1):
                (slow, one), (fast, other) = epoch(plain, number), epoch(kept, number)
                ratios.append(slow / fast)
                same &= all(map(torch.equal, one, other))
            store = open_store(place, LIMIT)
            taken = store.used / len(store) / 1e6
            close_store(place)
            sizes = {"file_megabytes": mean / 1e6, "megabytes": taken}
            yield {"name": name, "ratios": ratios, "filling": filling, **sizes, "same_bits": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where files and store are put (a temporary folder)")
    args = parser.parse_args()
    print(f"{args.images} images, {args.rounds} rounds")
    for size in SIZES:
        for found in compare_reading(size, args.images, args.rounds, folder=args.folder):
            rounds = ", ".join(f"{ratio:.1f}" for ratio in found["ratios"])
            print(
                f"{size}, {found['file_megabytes']:.2f} MB a file, {found['name']}: "
                f"{statistics.median(found['ratios']):.1f} times faster ({rounds}); the first epoch "
                f"{found['filling']:.2f} of a plain one; {found['megabytes']:.2f} MB an image kept; "
                f"{'the same bits' if found['same_bits'] else 'OTHER BITS'}"
            )


if __name__ == "__main__":
    main()
