"""Frozen features in a run."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.train import train
from vpeft.core.hooks.feature_cache import is_same_again
from vpeft.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs/mini"


def run(folder, name="linear_nano_vit", **options):
    """The trained tensors, the losses, and the log of a short run on the embedded digits."""
    fast = {
        "train_cfg.max_epochs": 3,
        "param_scheduler.1.end": 3,
        "param_scheduler.0.end": 1,
        "param_scheduler.1.begin": 1,
        "default_hooks.logger.interval": 1,
        "train_dataloader.dataset.indices": 60,
        "train_dataloader.batch_size": 25,
    }
    cfg = load_config(CONFIGS / f"{name}.py", "digits", {**fast, **options})
    train(prepare(cfg, str(folder), seed=0))
    (log,) = folder.glob("*/*.log")
    (scalars,) = folder.glob("*/vis_data/scalars.json")
    losses = [one["loss"] for one in map(json.loads, scalars.read_text().splitlines()) if "loss" in one]
    return load_file(folder / "adapter.safetensors"), losses, log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear_nano_vit", "lst_nano_vit"])
def test_a_run_has_the_same_bits(name, tmp_path):
    plain, losses, _ = run(tmp_path / "plain", name)
    options = {"feature_cache.limit": "200MB", "feature_cache.folder": str(tmp_path / "kept")}
    kept, same_losses, log = run(tmp_path / "run", name, **options)
    assert losses == same_losses
    assert len(losses) == 9
    assert plain.keys() == kept.keys()
    assert all(torch.equal(plain[key], kept[key]) for key in plain)
    assert "are computed once for each image" in log or "is computed once for each image" in log
    assert "frozen features: 85 images were spared 6 blocks" in log  # two epochs, but the first batch of each size
    assert (tmp_path / "kept/data.mdb").is_file()


@pytest.mark.slow
def test_random_augmentation_is_said(tmp_path):
    _, _, log = run(tmp_path / "run", **{"feature_cache.limit": "200MB", "augmentation": "crop_flip"})
    assert "training images come out otherwise each time (random augmentation)" in log
    assert not (tmp_path / "run/features").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"feature_cache.limit": "lots"}, "give bytes or a size such as '20GB'"),
        ({"feature_cache.limits": "20GB"}, "limits"),
    ],
)
def test_settings_are_obeyed_or_refused(options, said, tmp_path):
    with pytest.raises(UserError, match=said):
        run(tmp_path / "run", **options)


class Drawn(Dataset):
    """Images that are drawn anew each time, or not."""

    def __init__(self, noise):
        self.noise = noise

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"inputs": torch.full((3, 4, 4), float(index)) + self.noise * torch.rand(3, 4, 4)}


def test_whether_images_come_out_the_same_draws_no_random_number():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert is_same_again(Drawn(0.0))
    assert not is_same_again(Drawn(1.0))
    assert torch.equal(before, torch.get_rng_state())
