"""What a run knows of its base: refused where there is none, remembered where it came from, hashed once."""

from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import load_file
from support.hosts import perturb

import vpeft
from vpeft.apis.config.load import load_config, plain_config
from vpeft.apis.export.merged import export_merged
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.train import train
from vpeft.core.adaptation import base_weights
from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.models.build import build_model
from vpeft.core.trained.load import load_trained

ROOT = Path(__file__).parents[3]
FEW = {
    "train_cfg.max_epochs": 2,
    "default_hooks.checkpoint.interval": 1,
    "default_hooks.checkpoint.max_keep_ckpts": 9,
    "train_dataloader.batch_size": 8,
    "log_level": "ERROR",
    **{f"{part}_dataloader.dataset.indices": 16 for part in ("train", "test")},
}
#: A step moves what it trains by 1e-5.
SLOW = {"optim_wrapper.optimizer.lr": 1e-5, "train_cfg.max_epochs": 1}


def config(work_dir: Path, resume: bool = False, load_from=None, method: str = "lora", **options):
    cfg = load_config(ROOT / f"configs/mini/{method}_nano_vit.py", "digits", {**FEW, **options})
    cfg = prepare(cfg, str(work_dir), seed=0, resume=resume)
    return cfg if load_from is None else cfg.merge_from_dict({"load_from": str(load_from)}) or cfg


def nameless(cfg, **backbone):
    """The config without ``init_cfg``."""
    cfg.model.backbone.pop("init_cfg")
    cfg.model.backbone.update(backbone)
    return cfg


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole classifier that somebody else has trained, with another head."""
    cfg = plain_config(config(tmp_path_factory.mktemp("plain")))
    cfg.model.head.num_classes = 7
    model = build_model(cfg)
    model.init_weights()
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(1.01)
    file = tmp_path_factory.mktemp("theirs") / "theirs.pth"
    torch.save({"state_dict": model.state_dict(), "meta": {}}, file)
    return file


@pytest.fixture(scope="module")
def followed(whole, tmp_path_factory):
    """A run that started from it."""
    work_dir = tmp_path_factory.mktemp("followed")
    train(config(work_dir, load_from=whole))
    return work_dir


def base_state(model) -> dict:
    return {key: value for key, value in model.state_dict().items() if key in BASE}


BASE = {f"backbone.{key}" for key in load_file(ROOT / "vpeft/core/backbones/nano/nano_vit.safetensors")}


def is_theirs(model, whole) -> bool:
    state, own = torch.load(whole, weights_only=True)["state_dict"], base_state(model)
    return own.keys() == BASE and all(torch.equal(own[key], state[key]) for key in own)


def test_a_frozen_base_without_weights_is_not_trained(tmp_path):
    with pytest.raises(vpeft.UserError, match=r"got no weights from anywhere, and training .*init_cfg=") as error:
        train(nameless(config(tmp_path)))
    assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.glob("*.pth"))


def test_a_base_that_is_given_by_load_from_is_the_runs_own(followed, whole, tmp_path):
    results = [
        run_test(config(tmp_path / name[:5]), str(followed / name))["metrics"]
        for name in ("epoch_2.pth", "adapter.safetensors")
    ]
    assert results[0] == results[1]
    for cfg in (config(tmp_path), nameless(config(tmp_path))):
        model = load_trained(cfg, str(followed / "epoch_2.pth"))
        assert is_theirs(model, whole)
        base = find_adaptation(model).base
        assert (base.source, base.file, base.by) == ("file", str(whole), "load_from")
    export_merged(config(tmp_path), str(followed / "adapter.safetensors"), str(tmp_path / "plain.pth"))
    runner = train(config(tmp_path, resume=str(followed / "epoch_2.pth"), **{"train_cfg.max_epochs": 3}))
    assert is_theirs(runner.model, whole)
    last = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_3.pth"))["peft"]["base"]
    assert last["file"] == str(whole)


def test_a_given_base_that_is_gone_is_named(followed, whole, tmp_path):
    whole.rename(tmp_path / "moved.pth")
    try:
        with pytest.raises(vpeft.UserError, match=rf"trained on the base of {whole}, and no such file is there"):
            run_test(config(tmp_path), str(followed / "epoch_2.pth"))
        cfg = config(tmp_path, **{"model.backbone.init_cfg.checkpoint": str(tmp_path / "moved.pth")})
        run_test(cfg, str(followed / "epoch_2.pth"))  # named in its new place
    finally:
        (tmp_path / "moved.pth").rename(whole)


def test_a_base_in_part_is_refused(whole, tmp_path):
    checkpoint = torch.load(whole, weights_only=True)
    del checkpoint["state_dict"]["backbone.layers.2.attn.qkv.weight"]
    torch.save(checkpoint, tmp_path / "part.pth")
    with pytest.raises(vpeft.UserError, match=r"part\.pth holds the base only in part: layers\.2\.attn\.qkv\.weight"):
        train(config(tmp_path / "run", load_from=tmp_path / "part.pth"))


def test_load_from_an_adapter_file(followed, tmp_path):
    """Training starts where the adapter stands, on its base; other methods are refused."""
    file = followed / "adapter.safetensors"
    train(config(tmp_path / "run", load_from=file, **SLOW))
    start, end = load_file(file), load_file(tmp_path / "run" / "adapter.safetensors")
    assert start.keys() == end.keys()
    assert all((start[key] - end[key]).abs().max() < 1e-4 for key in start)
    assert max(value.abs().max() for key, value in start.items() if ".up." in key) > 1e-3  # they start at zero
    with pytest.raises(vpeft.UserError, match=r"adapter\.safetensors was trained with .*LoRA.*this config has .*SSF"):
        train(config(tmp_path / "other", method="ssf", load_from=file))


def test_a_random_base_that_is_meant_is_kept(tmp_path):
    runner = train(nameless(config(tmp_path), base="random"))
    state = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_2.pth"))["state_dict"]
    assert state.keys() >= BASE
    trained = runner.model.state_dict()
    for file in ("epoch_2.pth", "adapter.safetensors"):
        model = load_trained(nameless(config(tmp_path), base="random"), str(tmp_path / file))
        assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items())
    with pytest.raises(vpeft.UserError, match=r"other base weights, random ones"):
        run_test(config(tmp_path), str(tmp_path / "epoch_2.pth"))


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_the_base_is_hashed_once_a_run(method, tmp_path, monkeypatch):
    counted, original = [], base_weights.base_table
    monkeypatch.setattr(base_weights, "base_table", lambda tensors: (counted.append(1), original(tensors))[1])
    train(config(tmp_path, method=method, **{"train_cfg.max_epochs": 3}))
    assert len(list(tmp_path.glob("epoch_*.pth"))) == 3
    assert len(counted) == 1


@pytest.mark.slow
def test_an_averaged_model_has_the_base_too(tmp_path):
    """EMAHook copies the model before its base is loaded, and shows the copy's weights to a test."""

    def averaged(work_dir, **options):
        cfg = config(work_dir, **options)
        cfg.custom_hooks.append({"type": "EMAHook", "momentum": 0.5})
        return cfg

    train(averaged(tmp_path))
    plain = run_test(config(tmp_path / "plain"), str(tmp_path / "epoch_2.pth"))["metrics"]
    assert run_test(averaged(tmp_path / "ema"), str(tmp_path / "epoch_2.pth"))["metrics"] == plain
    runner = train(averaged(tmp_path, resume=str(tmp_path / "epoch_1.pth"), **{**SLOW, "train_cfg.max_epochs": 2}))
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == "EMAHook")
    base, copied = base_state(runner.model), base_state(hook.ema_model.module)
    assert all(torch.allclose(base[key], copied[key]) for key in base)


def test_a_test_without_any_weights_is_refused(tmp_path):
    from mmengine.runner import Runner

    runner = Runner.from_cfg(nameless(config(tmp_path)))
    perturb(runner.model)
    with pytest.raises(vpeft.UserError, match="got no weights from anywhere, and the test would go by random ones"):
        runner.test()
