"""Runs whose frozen weights are shared out among processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader
from safetensors.torch import load_file
from support.user import free_port

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.train import train
from vpeft.errors import UserError

ROOT = Path(__file__).parents[3]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
ENV["PATH"] = f"{Path(sys.executable).parent}:{ENV['PATH']}"
OPTIONS = ["--seed", "1", "--cfg-options", "default_hooks.logger.interval=1", "model.backbone.drop_path_rate=0.0"]


def run(command, work_dir, *options):
    call = [*command, "--task", "digits", "--work-dir", str(work_dir), *OPTIONS, *options]
    env = {**ENV, "PORT": str(free_port())}
    done = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


def losses(work_dir):
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("base_dtype", [None, "bfloat16"])
def test_two_processes_give_the_loss_curve_of_one_and_resume(tmp_path, base_dtype):
    recipe, one, two = "configs/mini/lora_nano_vit.py", tmp_path / "one", tmp_path / "two"
    kept = [f"model.backbone.base_dtype={base_dtype}"] if base_dtype else []
    run([sys.executable, "tools/train.py", recipe], one, "train_cfg.max_epochs=2", *kept)
    sharded = [str(ROOT / "tools/dist_train.sh"), recipe, "2"]
    options = ["train_dataloader.batch_size=32", "strategy=fsdp", *kept]
    run(sharded, two, "train_cfg.max_epochs=1", *options)
    run([*sharded, "--resume"], two, "train_cfg.max_epochs=2", *options)
    a, b = losses(one), losses(two)
    assert len(a) == len(b) == 2 * 16
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < (1e-5 if base_dtype is None else 1e-3)
    assert a[-1] < a[0]
    logs = " ".join(file.read_text() for file in two.glob("*/*.log"))
    assert "299,904 frozen parameters are shared out among 2 processes" in logs
    checkpoint = CheckpointLoader.load_checkpoint(str(two / "epoch_2.pth"), "cpu")["state_dict"]
    assert all(".peft." in key or key.startswith("head.") for key in checkpoint)
    alone, shared = load_file(one / "adapter.safetensors"), load_file(two / "adapter.safetensors")
    assert alone.keys() == shared.keys()
    assert all(alone[key].shape == shared[key].shape for key in alone)
    if base_dtype is None:
        assert all(torch.allclose(alone[key], shared[key], atol=1e-3) for key in alone)
    assert vpeft.load(two) is not None  # one process, nothing shared out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "fsdp"}, r"strategy='fsdp' shares weights out among processes, and there is one"),
        ({"strategy": "fsdp", "feature_cache.limit": "1GB"}, r"strategy='fsdp' beside feature_cache"),
        ({"strategy": "fsdp", "custom_hooks": [{"type": "EMAHook"}]}, r"strategy='fsdp' beside EMAHook"),
        ({"strategy": "ddp"}, r"strategy='ddp': it is 'fsdp'"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tmp_path, options, said):
    options = {**options, "train_cfg.max_epochs": 1}
    cfg = load_config(ROOT / "configs/mini/lora_nano_vit.py", "digits", options)
    with pytest.raises(UserError, match=said):
        train(prepare(cfg, str(tmp_path)))
