"""A run that was killed between a checkpoint and its validation."""

from pathlib import Path

from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.train import train

ROOT = Path(__file__).parents[3]
FAST = {"train_split": "train800", "train_cfg.max_epochs": 2, "train_cfg.val_interval": 2, "log_level": "ERROR"}
FAST |= {"train_dataloader.batch_size": 400, "default_hooks.checkpoint.interval": 1}


def run(folder, **options):
    cfg = load_config(ROOT / "configs/mini/lora_nano_vit.py", "digits", FAST)
    return train(prepare(cfg, str(folder), seed=0, **options))


def looks(runner):
    return [float(value) for value in runner.message_hub.log_scalars.get("val/accuracy/top1", [[]])._log_history]


def test_the_validation_is_made_up_for(tmp_path):
    whole = looks(run(tmp_path))
    assert len(whole) == 1
    # As written before the validation, the last checkpoint knows nothing of it.
    assert looks(run(tmp_path, resume=True)) == whole
    # After the first epoch none was due.
    assert looks(run(tmp_path / "b", resume=str(tmp_path / "epoch_1.pth"))) == whole
