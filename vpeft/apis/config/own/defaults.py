"""Defaults by family and number of images; what a user sets stands above them."""

from __future__ import annotations

import os
from dataclasses import dataclass

#: Epochs for as many training samples as the first number says; the last line is for more.
EPOCHS: dict[str, tuple[tuple[float, int], ...]] = {
    "classification": ((100, 30), (1_000, 20), (10_000, 15), (100_000, 10), (float("inf"), 5)),
    "detection": ((100, 40), (1_000, 30), (10_000, 24), (float("inf"), 12)),
    "instances": ((100, 40), (1_000, 30), (10_000, 24), (float("inf"), 12)),
    "segmentation": ((100, 40), (1_000, 30), (10_000, 20), (float("inf"), 10)),
    "video": ((100, 30), (1_000, 25), (10_000, 20), (float("inf"), 10)),
}
#: Samples of a step; fewer where an epoch would have fewer than :data:`FEWEST_STEPS` of them.
BATCH = {"classification": 32, "detection": 4, "instances": 4, "segmentation": 8, "video": 8}
FEWEST_STEPS = 4
#: Batch norm of the heads of segmentation has nothing to say of one image.
SMALLEST_BATCH = {"segmentation": 2}
#: Looks at the validation part in a run, at the most.
LOOKS = 10
#: Share of the epochs in which the learning rate rises.
WARM_UP = 0.1
#: Samples that are read without workers: to start these would take longer.
FEW = 200
MOST_WORKERS = 4
#: Data of so many images have a store of decoded ones, which takes so many bytes at the most and ends with the run.
SMALL, STORE = 10_000, "5GB"
#: What is done to training images at random.
AUGMENTATIONS = ("none", "crop", "crop_flip")
AUGMENTATION = {"video": "crop"}  # the direction of a movement may be its class


@dataclass(frozen=True)
class RunNumbers:
    """The numbers of a run.

    Attributes:
        epochs: Passes over the training part.
        batch: Samples of a step.
        workers: Processes that read.
        look: Epochs between two looks at the validation part.
        warm_up: Epochs in which the learning rate rises.
    """

    epochs: int
    batch: int
    workers: int
    look: int
    warm_up: int


def numbers_of(family: str, samples: int, epochs: int | None = None, batch: int | None = None) -> RunNumbers:
    """The numbers for so many training samples.

    Args:
        family: Of the task.
        samples: Of the training part.
        epochs: The user's own, None for the table's.
        batch: The same of the samples of a step.
    """
    epochs = epochs or next(number for most, number in EPOCHS[family] if samples <= most)
    batch = batch or max(SMALLEST_BATCH.get(family, 1), min(BATCH[family], samples // FEWEST_STEPS))
    workers = 0 if samples <= FEW else min(MOST_WORKERS, os.cpu_count() or 1)
    return RunNumbers(epochs, min(batch, samples), workers, max(1, epochs // LOOKS), round(WARM_UP * epochs))


def schedule(plan: RunNumbers) -> dict[str, object]:
    """A linear rise, then half a cosine to zero, step by step; looks at the validation part on the way."""
    rise = {"type": "LinearLR", "start_factor": 0.01, "by_epoch": True, "convert_to_iter_based": True}
    fall = {"type": "CosineAnnealingLR", "eta_min": 0.0, "by_epoch": True, "convert_to_iter_based": True}
    begin = plan.warm_up
    steps = [{**rise, "begin": 0, "end": begin}] if begin else []
    return {
        "param_scheduler": [*steps, {**fall, "begin": begin, "end": plan.epochs}],
        "train_cfg": {"by_epoch": True, "max_epochs": plan.epochs, "val_interval": plan.look},
        "val_cfg": {},
    }
