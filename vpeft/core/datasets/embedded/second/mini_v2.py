"""The second version of the embedded mini-benchmark: tasks that no trivial cue decides, beside those of the first."""

from __future__ import annotations

from typing import ClassVar

from vpeft.core.datasets.embedded.mini import CLASSES, EMBEDDED, EmbeddedSuite, MiniVTAB
from vpeft.core.datasets.embedded.second.pictures_v2 import STAINS, digits_v2, photos_v2, textures_v2, tissue_v2
from vpeft.core.datasets.embedded.second.sprites_v2 import BESIDE_DISC, TURNED, location_v2, orientation_v2
from vpeft.core.datasets.tasks import Splits, register_suite
from vpeft.registry import DATASETS

register_suite(
    "mini_v2",
    Splits("train800", "val200", "train800val200", shifted=True),
    {
        "natural": [("digits_v2", 10, 797, False, ("digits",)), ("photos_v2", 8, 800, True, ("photos",))],
        "specialized": [("textures_v2", 6, 600, True, ("textures",)), ("tissue_v2", 4, 800, True, ("tissue",))],
        "structured": [
            ("sprite_location_v2", 16, 800, False, ("sprite_location",)),
            ("sprite_orientation_v2", 16, 800, False, ("sprite_orientation",)),
        ],
    },
    title="mini-benchmark, second version",
)
EMBEDDED["mini_v2"] = EmbeddedSuite(
    {
        "digits_v2": digits_v2,
        "photos_v2": photos_v2,
        "textures_v2": textures_v2,
        "tissue_v2": tissue_v2,
        "sprite_location_v2": location_v2,
        "sprite_orientation_v2": orientation_v2,
    },
    {
        "digits_v2": CLASSES["digits"],
        "photos_v2": CLASSES["photos"],
        "textures_v2": CLASSES["textures"],
        "tissue_v2": STAINS,
        "sprite_location_v2": tuple(f"{form}, {side}" for form in BESIDE_DISC for side in ("right", "left")),
        "sprite_orientation_v2": tuple(f"{form}, {90 * k} degrees" for form in TURNED for k in range(4)),
    },
)


@DATASETS.register_module()
class MiniVTABv2(MiniVTAB):
    """One task of the second version, with the interface of :class:`~vpeft.core.datasets.embedded.mini.MiniVTAB`.

    Args:
        task: Name of the task, or that of the first version.
        split: ``train800 | val200 | train800val200 | test``.
        seed: Seed of the drawing.
        shift: A corruption or change of style, such as ``noise-3`` (:mod:`vpeft.core.datasets.embedded.shifts`).
        **kwargs: Of mmengine's ``BaseDataset``, such as ``pipeline``.
    """

    suite: ClassVar[str] = "mini_v2"
