"""A run of every family as training leaves it, without the training, and the images of its test."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.registry import DATASETS, init_default_scope
from mmengine.utils import import_modules_from_strings

import vpeft
from support.hosts import perturb
from vpeft.apis.config.load import load_config
from vpeft.core.adaptation.storing.fit import stated_classes
from vpeft.core.datasets.embedded import moving_shapes, scenes
from vpeft.core.models.build import build_model
from vpeft.core.trained.folder import ADAPTER
from vpeft.core.trained.record import run_record

CONFIGS = Path(__file__).parents[2] / "configs"
#: Configs of the embedded tasks by what they predict.
RECIPES = {
    "classes": "lora_nano_vit",
    "boxes": "lora_nano_swin_detection",
    "masks": "lora_nano_swin_instances",
    "maps": "lora_nano_swin_segmentation",
    "clips": "lora_nano_vit_video",
}


def family_run(
    root: Path, kind: str, samples: int = 6, recipe: str | None = None, task: str | None = None, seed: int = 7
) -> Path:
    """The folder of a run with few test samples, below ``root``, where its data are drawn too.

    Args:
        root: Where the folder is made; it is called by the task, or the kind.
        kind: Of :data:`RECIPES`.
        samples: Of its test.
        recipe: Name of another config of the kind.
        task: Its task, where it has several.
        seed: Of what it has learned.
    """
    recipe = recipe or RECIPES[kind]
    cfg = load_config(CONFIGS / f"mini/{recipe}.py", task, {"test_dataloader.batch_size": 4})
    folder = root / (task or kind)
    folder.mkdir()
    import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.default_scope)
    if "data_root" in cfg.test_dataloader.dataset:
        for part in ("train", "val", "test"):
            cfg[f"{part}_dataloader"].dataset.data_root = str(root / f"data_{kind}")
        with pytest.MonkeyPatch.context() as patch:
            for splits in (scenes.SPLITS, moving_shapes.SPLITS):
                for split in splits:
                    patch.setitem(splits, split, samples)
            data = DATASETS.build(cfg.test_dataloader.dataset)
    else:
        cfg.test_dataloader.dataset.indices = samples
        data = DATASETS.build(cfg.test_dataloader.dataset)
    cfg.work_dir = str(folder)
    model = build_model(cfg)
    model.init_weights()
    vpeft.save_adapter(perturb(model, seed=seed), folder / ADAPTER, classes=stated_classes(data), run=run_record(cfg))
    cfg.dump(str(folder / f"{recipe}.py"))
    return folder
