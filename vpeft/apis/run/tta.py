"""Test-time augmentation, as a config of OpenMMLab's states it."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine import Config, ConfigDict

from vpeft.errors import UserError


def with_tta(cfg: Config) -> Config:
    """Let a config's test look at every image several times (``tools/test.py --tta``).

    Args:
        cfg: A config with ``tta_model``, which stands around the model and joins the predictions, and
            ``tta_pipeline``, which reads the test data; changed in place.

    Raises:
        UserError: It has not both, or its test data are read by no pipeline.
    """
    missing = [key for key in ("tta_model", "tta_pipeline") if not cfg.get(key)]
    if missing:
        raise UserError(
            f"--tta: this config has no {' and no '.join(missing)}: state them as OpenMMLab's configs do, "
            "tta_model=dict(type='mmpretrain.AverageClsScoreTTA') and a tta_pipeline that ends in a TestTimeAug."
        )
    readers = list(_readers(cfg.test_dataloader.dataset))
    if not readers:
        raise UserError("--tta: test_dataloader.dataset has no pipeline in whose place tta_pipeline could stand.")
    for reader in readers:
        reader.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    return cfg


def _readers(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data sets that read files, under whatever repeats or joins them."""
    if "pipeline" in dataset:
        yield dataset
    for inner in (*([dataset.dataset] if "dataset" in dataset else ()), *dataset.get("datasets", ())):
        yield from _readers(inner)
