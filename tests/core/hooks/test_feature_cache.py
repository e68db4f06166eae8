"""Frozen features in a run."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from vpeft.apis.config.load import load_config
from vpeft.apis.config.setting import setting_hash
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
    assert "frozen features: 95 images were spared 6 blocks" in log  # two epochs, but the first batch of 25
    assert "images are not read any more" in log
    assert "read in every epoch all the same" not in log
    assert (tmp_path / "kept/data.mdb").is_file()


@pytest.mark.slow
def test_random_augmentation_is_said(tmp_path):
    _, _, log = run(tmp_path / "run", **{"feature_cache.limit": "200MB", "augmentation": "crop_flip"})
    assert "training images come out otherwise each time (random augmentation)" in log
    assert not (tmp_path / "run/features").exists()


@pytest.mark.slow
def test_fixed_views_have_the_same_bits_kept_or_not(tmp_path):
    views = {"augmentation": "crop_flip", "feature_cache.views": 2, "train_cfg.max_epochs": 5}
    views["param_scheduler.1.end"] = 5
    plain, losses, log = run(tmp_path / "plain", **views)
    assert "frozen features" not in log
    kept, same_losses, log = run(tmp_path / "kept", **views, **{"feature_cache.limit": "200MB"})
    assert losses == same_losses
    assert all(torch.equal(plain[key], kept[key]) for key in plain)
    assert "images are not read any more" in log  # from the third epoch on
    assert "180 images were spared 6 blocks" in log  # three epochs: both sizes came three times before
    once, *_ = run(tmp_path / "once", **{**views, "feature_cache.views": None})
    assert not all(torch.equal(plain[key], once[key]) for key in plain)


def test_the_number_of_views_is_another_setting_and_the_limit_is_not():
    def hash_of(**options):
        return setting_hash(load_config(CONFIGS / "linear_nano_vit.py", "digits", options))

    plain = hash_of()
    assert hash_of(**{"feature_cache.limit": "1GB"}) == plain
    assert len({plain, *(hash_of(**{"feature_cache.views": n}) for n in (1, 2))}) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"feature_cache.views": 0}, "feature_cache.views=0: give the number of views of each image, 1 or more"),
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
