"""The tasks of all suites: VTAB-1k, FGVC, whole data sets ("many shot"), and the embedded mini-benchmark."""

from __future__ import annotations

from dataclasses import dataclass

from vpeft.errors import UserError
from vpeft.registry import nearest

GROUPS = ("natural", "specialized", "structured")


@dataclass(frozen=True)
class Splits:
    """The lists of a suite, by what the protocol does with them.

    Attributes:
        tune: Trained on while settings are searched.
        val: What the search looks at.
        final: Trained on with the setting that was found.
        test: Looked at once, at the end.
    """

    tune: str
    val: str
    final: str
    test: str = "test"

    @property
    def names(self) -> tuple[str, ...]:
        """Each list once."""
        return tuple(dict.fromkeys((self.tune, self.val, self.final, self.test)))

    def holds_val(self, split: str) -> bool:
        """Whether a training list has the images of ``val`` among its own."""
        return split == self.final != self.tune


_VTAB_SPLITS = Splits("train800", "val200", "train800val200")
#: By suite. FGVC's usual protocol trains on ``train`` alone in the end, too.
SPLITS = {
    "vtab": _VTAB_SPLITS,
    "mini": _VTAB_SPLITS,
    "fgvc": Splits("train", "val", "train"),
    "many_shot": Splits("train", "val", "trainval"),
}


@dataclass(frozen=True)
class Task:
    """One classification task.

    Attributes:
        name: Its name, and its folder in the public layout.
        suite: Key of ``SUITES``.
        group: ``natural | specialized | structured``, None in suites without groups.
        num_classes: Classes.
        test_size: Images of the test split.
        flip_safe: Whether a horizontal flip keeps the label.
        aliases: Other names of the folder.
        train_sizes: Images of the suite's lists ``tune`` and ``val``.
    """

    name: str
    suite: str
    group: str | None
    num_classes: int
    test_size: int
    flip_safe: bool = True
    aliases: tuple[str, ...] = ()
    train_sizes: tuple[int, int] = (800, 200)

    @property
    def sizes(self) -> dict[str, int]:
        """Images of every list."""
        splits, (tune, val) = SPLITS[self.suite], self.train_sizes
        whole = {splits.final: tune + val} if splits.holds_val(splits.final) else {}
        return {splits.tune: tune, splits.val: val, **whole, splits.test: self.test_size}


def _suite(suite: str, rows: dict[str | None, list[tuple]]) -> dict[str, Task]:
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

FGVC = _suite(
    "fgvc",
    {
        None: [
            ("cub200", 200, 5_794, True, ("CUB_200_2011", "cub"), (5_394, 600)),
            ("nabirds", 555, 24_633, True, (), (21_536, 2_393)),
            ("flowers102", 102, 6_149, True, ("OxfordFlower", "OxfordFlowers", "oxford_flowers102"), (1_020, 1_020)),
            ("stanford_dogs", 120, 8_580, True, ("Stanford-dogs", "dogs"), (10_800, 1_200)),
            ("stanford_cars", 196, 8_041, True, ("Stanford-cars", "cars"), (7_329, 815)),
        ]
    },
)

# Of the study arXiv 2409.16434; how much of the training images is `val` is ours.
MANY_SHOT = _suite(
    "many_shot",
    {
        None: [
            ("cifar100_full", 100, 10_000, True, ("cifar100",), (45_000, 5_000)),
            ("resisc45_full", 45, 6_300, True, ("resisc45",), (22_680, 2_520)),
            ("clevr_dist_full", 6, 15_000, True, ("clevr_dist",), (63_000, 7_000)),
        ]
    },
)

SUITES = {"vtab": VTAB, "mini": MINI, "fgvc": FGVC, "many_shot": MANY_SHOT}
TASKS = {name: task for suite in SUITES.values() for name, task in suite.items()}


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


def check_split(split: str, suite: str) -> None:
    """Refuse an unknown split.

    Raises:
        UserError: The split is none of the suite's; the message names the nearest.
    """
    if split not in SPLITS[suite].names:
        raise UserError(f"unknown split {split!r} of suite {suite!r}: {nearest(split, SPLITS[suite].names)}")
