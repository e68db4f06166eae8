"""The tasks of both suites: VTAB-1k and the embedded mini-benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from vpeft.errors import UserError
from vpeft.registry import nearest

GROUPS = ("natural", "specialized", "structured")
SPLITS = ("train800", "val200", "train800val200", "test")


@dataclass(frozen=True)
class Task:
    """One classification task.

    Attributes:
        name: Its name, and its folder in the public layout.
        suite: ``vtab`` or ``mini``.
        group: ``natural | specialized | structured``.
        num_classes: Classes.
        test_size: Images of the test split.
        flip_safe: Whether a horizontal flip keeps the label.
        aliases: Other names of the folder.
    """

    name: str
    suite: str
    group: str
    num_classes: int
    test_size: int
    flip_safe: bool = True
    aliases: tuple[str, ...] = ()


def _suite(suite: str, rows: dict[str, list[tuple]]) -> dict[str, Task]:
    return {row[0]: Task(row[0], suite, group, *row[1:]) for group, tasks in rows.items() for row in tasks}


VTAB = _suite(
    "vtab",
    {
        "natural": [
            ("cifar", 100, 10_000, True, ("cifar100", "cifar_100")),
            ("caltech101", 102, 6_084),
            ("dtd", 47, 1_880),
            ("oxford_flowers102", 102, 6_149, True, ("flowers102", "oxford_flowers")),
            ("oxford_iiit_pet", 37, 3_669, True, ("pets", "oxford_pets")),
            ("svhn", 10, 26_032, False),
            ("sun397", 397, 21_750),
        ],
        "specialized": [
            ("patch_camelyon", 2, 32_768, True, ("camelyon",)),
            ("eurosat", 10, 5_400),
            ("resisc45", 45, 6_300, True, ("resisc",)),
            ("diabetic_retinopathy", 5, 42_670, True, ("retinopathy",)),
        ],
        "structured": [
            ("clevr_count", 8, 15_000),
            ("clevr_dist", 6, 15_000, True, ("clevr_distance",)),
            ("dmlab", 6, 22_735),
            ("kitti", 4, 711),
            ("dsprites_loc", 16, 73_728, False, ("dsprites_location",)),
            ("dsprites_ori", 16, 73_728, False, ("dsprites_orientation",)),
            ("smallnorb_azi", 18, 12_150, False, ("smallnorb_azimuth",)),
            ("smallnorb_ele", 9, 12_150, True, ("smallnorb_elevation",)),
        ],
    },
)

MINI = _suite(
    "mini",
    {
        "natural": [("digits", 10, 797, False), ("photos", 8, 800)],
        "specialized": [("textures", 6, 804), ("tissue", 4, 800)],
        "structured": [
            ("sprite_location", 16, 800, False),
            ("sprite_orientation", 8, 800, False),
            ("sprite_count", 6, 804),
            ("sprite_distance", 6, 804),
        ],
    },
)

SUITES = {"vtab": VTAB, "mini": MINI}
TASKS = {**VTAB, **MINI}


def get_task(name: str, suite: str) -> Task:
    """A task of a suite by its name or an alias.

    Raises:
        UserError: Unknown suite or task; the message names the nearest.
    """
    if suite not in SUITES:
        raise UserError(f"unknown suite {suite!r}: {nearest(suite, SUITES)}")
    tasks = SUITES[suite]
    names = {alias: task for task in tasks.values() for alias in (task.name, *task.aliases)}
    if name not in names:
        raise UserError(f"unknown task {name!r} of suite {suite!r}: {nearest(name, tasks)}")
    return names[name]


def check_split(split: str) -> None:
    """Refuse an unknown split.

    Raises:
        UserError: The split is not one of ``SPLITS``.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: {nearest(split, SPLITS)}")
