"""The main job: train, resume, test, merge, on the embedded tasks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import load_file

import vpeft
from vpeft.apis.config.load import load_config, plain_config
from vpeft.apis.export.merged import export_merged, load_trained
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.train import train
from vpeft.core.adaptation.find import get_adaptation

ROOT = Path(__file__).parents[3]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums are bit-equal for one number of threads
FAST = {
    "train_cfg.max_epochs": 2,
    "default_hooks.checkpoint.interval": 1,
    "default_hooks.logger.interval": 1,
    "train_dataloader.batch_size": 250,
    "log_level": "WARNING",
}


def config(name: str, work_dir: Path, seed: int = 0, resume: bool = False, **options):
    cfg = load_config(ROOT / f"configs/mini/{name}.py", "digits", {**FAST, **options})
    return prepare(cfg, str(work_dir), seed=seed, resume=resume)


def tool(name: str, *args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / name), *args]
    return subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory):
    """A trained LoRA run on the nano ViT: its folder."""
    work_dir = tmp_path_factory.mktemp("lora")
    train(config("lora_nano_vit", work_dir))
    return work_dir


def test_checkpoints_hold_no_frozen_backbone(lora_run):
    checkpoint = CheckpointLoader.load_checkpoint(str(lora_run / "epoch_2.pth"), "cpu")
    keys = set(checkpoint["state_dict"])
    assert keys == set(load_file(lora_run / "adapter.safetensors"))
    assert {k.split(".")[0] for k in keys} == {"backbone", "head"}
    assert all(".peft." in k for k in keys if k.startswith("backbone."))
    assert checkpoint["peft"]["methods"][0]["type"] == "LoRA"
    sizes = sum(v.numel() for v in checkpoint["state_dict"].values())
    assert sizes == 6 * 4 * 64 * 8 + 65 * 10


def test_checkpoint_and_adapter_file_give_the_same_result(lora_run, tmp_path):
    a = run_test(config("lora_nano_vit", tmp_path / "a"), str(lora_run / "epoch_2.pth"))
    b = run_test(config("lora_nano_vit", tmp_path / "b"), str(lora_run / "adapter.safetensors"))
    assert a["metrics"]["accuracy/top1"] == b["metrics"]["accuracy/top1"]
    assert a["metrics"]["accuracy/top1"] > 15  # above chance of ten classes after eight steps
    written = json.loads((tmp_path / "a" / "result.json").read_text())
    assert written["parameters"]["trainable_without_head"] == 12288
    assert written["parameters"]["head"] == 650
    assert written["task"] == "digits"
    assert written["seed"] == 0
    assert written["normalisation"]


def test_same_seed_same_weights_other_seed_other_weights(lora_run, tmp_path):
    train(config("lora_nano_vit", tmp_path / "again"))
    train(config("lora_nano_vit", tmp_path / "other", seed=1))
    first, again, other = (
        load_file(d / "adapter.safetensors") for d in (lora_run, tmp_path / "again", tmp_path / "other")
    )
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_resume_at_an_epoch_is_bit_equal(tmp_path):
    """Dropout, DropPath and augmentation on: the random numbers of an epoch follow from seed and epoch."""
    options = {
        "model.backbone.method.drop": 0.2,
        "model.backbone.drop_path_rate": 0.2,
        "train_cfg.max_epochs": 4,
        "augmentation": "crop_flip",
    }
    whole = train(config("lora_nano_vit", tmp_path / "whole", **options))
    train(
        config(
            "lora_nano_vit", tmp_path / "part", **{**options, "train_cfg.max_epochs": 4, "train_cfg.val_interval": 99}
        )
    )
    for file in ("epoch_3.pth", "epoch_4.pth"):
        assert (tmp_path / "part" / file).exists()
    (tmp_path / "part" / "epoch_4.pth").unlink()
    (tmp_path / "part" / "last_checkpoint").write_text(str(tmp_path / "part" / "epoch_3.pth"))
    resumed = train(config("lora_nano_vit", tmp_path / "part", resume=True, **options))
    assert resumed.epoch == 4
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_killed_and_resumed_run_is_bit_equal(tmp_path):
    args = ["configs/mini/adaptformer_nano_swin.py", "--task", "digits", "--seed", "3", "--cfg-options"]
    args += ["train_cfg.max_epochs=5", "default_hooks.checkpoint.interval=1", "train_dataloader.batch_size=100"]
    args += ["model.backbone.drop_path_rate=0.2", "model.backbone.method.drop=0.1"]
    whole = tool("train.py", *args, "--work-dir", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr[-2000:]
    command = [sys.executable, "tools/train.py", *args, "--work-dir", str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 300
    while not (tmp_path / "killed" / "epoch_2.pth").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "adapter.safetensors").exists()
    resumed = tool("train.py", *args, "--resume", "--work-dir", str(tmp_path / "killed"))
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "goes on    behind iteration" in resumed.stderr
    a, b = (load_file(tmp_path / d / "adapter.safetensors") for d in ("whole", "killed"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def losses(work_dir: Path) -> list[float]:
    (file,) = work_dir.glob("*/vis_data/scalars.json")
    return [row["loss"] for row in map(json.loads, file.read_text().splitlines()) if "loss" in row]


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_of_the_doubled_batch(tmp_path):
    options = ["--seed", "1", "--cfg-options", "train_cfg.max_epochs=3", "default_hooks.logger.interval=1"]
    options += ["model.backbone.drop_path_rate=0.0"]
    config_file = "configs/mini/lora_nano_vit.py"
    one = tool("train.py", config_file, "--task", "digits", "--work-dir", str(tmp_path / "one"), *options)
    assert one.returncode == 0, one.stderr[-2000:]
    env = {**ENV, "PORT": "29611"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    two = [str(ROOT / "tools/dist_train.sh"), config_file, "2", "--task", "digits", "--work-dir", str(tmp_path / "two")]
    two += [*options, "train_dataloader.batch_size=32"]
    done = subprocess.run(two, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    a, b = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(a) == len(b) == 3 * 16
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-4
    assert a[-1] < a[0]


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    cfg = config("lora_nano_vit", tmp_path, **{"train_cfg.max_epochs": 3})
    cfg.custom_hooks.append({"type": "vpeft.PoisonHook", "epoch": 1})
    with pytest.raises(vpeft.UserError, match=r"loss became nan at iteration 6 \(epoch 2\).*epoch_1\.pth"):
        train(cfg)
    assert (tmp_path / "epoch_1.pth").exists()
    assert not (tmp_path / "epoch_2.pth").exists()
    good = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), "cpu")["state_dict"]
    assert all(torch.isfinite(v).all() for v in good.values())


@vpeft.registry.HOOKS.register_module()
class PoisonHook(Hook):
    """Makes the head NaN in the second iteration of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        if runner.epoch == self.epoch and batch_idx == 1:
            runner.model.head.fc.weight.data.fill_(float("nan"))


def test_ema_round_trip(tmp_path):
    cfg = config("lora_nano_vit", tmp_path)
    cfg.custom_hooks.append({"type": "EMAHook", "momentum": 0.5})
    train(cfg)
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_2.pth"), "cpu")
    assert all(".peft." in k for k in checkpoint["ema_state_dict"] if k.startswith("module.backbone."))
    cfg = config("lora_nano_vit", tmp_path, resume=True, **{"train_cfg.max_epochs": 3})
    cfg.custom_hooks.append({"type": "EMAHook", "momentum": 0.5})
    assert train(cfg).epoch == 3


def test_merged_checkpoint_loads_strictly_into_the_plain_config(lora_run, tmp_path):
    cfg = config("lora_nano_vit", tmp_path)
    done = export_merged(cfg, str(lora_run / "epoch_2.pth"), str(tmp_path / "plain.pth"))
    assert done["merged"] < 1e-12
    assert done["written"] < 1e-5
    adapted = load_trained(cfg, str(lora_run / "adapter.safetensors"))
    plain = vpeft.apis.config.load.build_model(plain_config(cfg))
    plain.load_state_dict(torch.load(tmp_path / "plain.pth", weights_only=True)["state_dict"], strict=True)
    images = torch.randn(3, 3, 32, 32)
    assert get_adaptation(plain) is None
    torch.testing.assert_close(plain.eval()(images), adapted(images), rtol=1e-4, atol=1e-5)


def test_merge_refuses_what_is_not_affine(tmp_path):
    train(config("adaptformer_nano_vit", tmp_path, **{"train_cfg.max_epochs": 1}))
    with pytest.raises(vpeft.UserError, match="AdaptFormer cannot be merged"):
        export_merged(
            config("adaptformer_nano_vit", tmp_path), str(tmp_path / "adapter.safetensors"), str(tmp_path / "out.pth")
        )
    assert not (tmp_path / "out.pth").exists()


def test_wrong_checkpoints_are_refused(lora_run, tmp_path):
    data = (lora_run / "epoch_2.pth").read_bytes()
    truncated, foreign = tmp_path / "truncated.pth", tmp_path / "foreign.pth"
    truncated.write_bytes(data[: len(data) // 2])
    torch.save({"state_dict": {"encoder.weight": torch.zeros(2)}}, foreign)
    with pytest.raises(vpeft.UserError, match=r"truncated\.pth is truncated or no checkpoint"):
        run_test(config("lora_nano_vit", tmp_path), str(truncated))
    with pytest.raises(vpeft.UserError, match=r"foreign checkpoint: none of its keys \['encoder.weight'\]"):
        run_test(config("lora_nano_vit", tmp_path), str(foreign))
    with pytest.raises(vpeft.UserError, match=r"trained with .*LoRA.*this config has .*SSF"):
        run_test(config("ssf_nano_vit", tmp_path), str(lora_run / "epoch_2.pth"))
    with pytest.raises(vpeft.UserError, match="does not exist"):
        run_test(config("lora_nano_vit", tmp_path), str(tmp_path / "missing.pth"))


def test_checkpoint_of_another_base_is_refused(lora_run, tmp_path):
    cfg = config("lora_nano_vit", tmp_path)
    cfg.model.backbone.init_cfg = {"type": "TruncNormal", "layer": "Linear", "std": 0.02}
    with pytest.raises(vpeft.UserError, match="other base weights"):
        run_test(cfg, str(lora_run / "epoch_2.pth"))


def test_pickles_that_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    torch.save({"state_dict": {}, "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(vpeft.UserError, match="only running its code could load"):
        run_test(config("lora_nano_vit", tmp_path), str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


def test_amp_without_an_accelerator_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(vpeft.UserError, match="--amp needs an accelerator"):
        prepare(load_config(ROOT / "configs/mini/lora_nano_vit.py"), str(tmp_path), amp=True)


def test_official_initialisers_do_not_undo_the_start(tmp_path):
    """A base config's initialiser runs over all linears; the adapters must still start as the method says."""
    cfg = config("adaptformer_nano_vit", tmp_path)
    cfg.model.init_cfg = [{"type": "Constant", "layer": "Linear", "val": 0.5}]
    model = vpeft.apis.config.load.build_model(cfg)
    model.init_weights()
    ups = [p for k, p in model.named_parameters() if k.endswith("peft.adaptformer.mlp.up.weight")]
    assert len(ups) == 6
    assert all((p == 0).all() for p in ups)
    downs = [p for k, p in model.named_parameters() if k.endswith("peft.adaptformer.mlp.down.weight")]
    assert all(p.std() > 0.01 for p in downs)
