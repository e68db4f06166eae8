"""Test-time augmentation: ``tools/test.py --tta`` and a config whose model is a wrapper of its own."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine import ConfigDict

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.apis.config.protocol import protocol
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.tta import with_tta
from vpeft.core.models.build import build_model
from vpeft.core.trained.load import load_trained

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs/mini/lora_nano_vit.py"


def config(tmp_path, *views):
    """The nano ViT's config with test-time augmentation of the given flips."""
    flips = "".join(f"dict(type='RandomFlip', prob={prob})," for prob in views)
    path = tmp_path / "tta.py"
    path.write_text(
        f"_base_ = [{str(CONFIG)!r}]\n"
        "tta_model = dict(type='mmpretrain.AverageClsScoreTTA')\n"
        "tta_pipeline = [dict(type='vpeft.LoadImage'), "
        "dict(type='Resize', scale=(32, 32), interpolation='bicubic'), dict(type='TestTimeAug', "
        f"transforms=[[{flips}], [dict(type='PackInputs')]])]\n"
    )
    return path


def read(path):
    return load_config(path, "digits", {"log_level": "ERROR", "test_dataloader.batch_size": 200})


@pytest.fixture
def adapter(tmp_path):
    cfg = read(CONFIG)
    model = build_model(cfg)
    model.init_weights()
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param.add_(torch.randn_like(param) * 0.2)
    return vpeft.save_adapter(model, tmp_path / "adapter.safetensors", task="digits")


@pytest.mark.slow
def test_the_tool(adapter, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("tool_test", ROOT / "tools/test.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    args = ["--task", "digits", "--work-dir", str(tmp_path / "run"), "--cfg-options", "log_level=ERROR"]
    monkeypatch.setattr(sys, "argv", ["test.py", str(config(tmp_path, 0.0, 0.0)), str(adapter), *args, "--tta"])
    tool.main()
    result = json.loads((tmp_path / "run/tta/result.json").read_text())
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["tta"]
    plain = run_test(prepare(read(CONFIG), str(tmp_path / "plain")), str(adapter))
    assert result["metrics"] == plain["metrics"]  # two views that are one
    assert result["parameters"] == plain["parameters"]
    assert "top1" in capsys.readouterr().out


def test_the_wrapped_model_is_the_trained_one(adapter, tmp_path):
    cfg = with_tta(read(config(tmp_path, 1.0, 0.0)))
    assert protocol(cfg)["faults"] == ["tested with test-time augmentation"]
    assert protocol(read(CONFIG))["faults"] == []
    wrapped, plain = load_trained(cfg, str(adapter)), load_trained(read(CONFIG), str(adapter))
    images = torch.randn(2, 3, 32, 32)
    assert type(wrapped).__name__ == "AverageClsScoreTTA"
    assert torch.equal(wrapped.module(images), plain(images))


def test_a_config_without_it_is_refused():
    with pytest.raises(vpeft.UserError, match="--tta: this config has no tta_model and no tta_pipeline: state them"):
        with_tta(read(CONFIG))


def test_joined_and_repeated_data_sets_are_read_by_it(tmp_path):
    cfg = read(config(tmp_path, 0.0))
    one = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = ConfigDict(
        type="ConcatDataset", datasets=[one, ConfigDict(type="RepeatDataset", times=2, dataset=one.copy())]
    )
    with_tta(cfg)
    first, second = cfg.test_dataloader.dataset.datasets
    assert first.pipeline == second.dataset.pipeline == cfg.tta_pipeline
    cfg.test_dataloader.dataset = ConfigDict(type="Other")
    with pytest.raises(vpeft.UserError, match="has no pipeline"):
        with_tta(cfg)
