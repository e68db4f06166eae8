"""The analyses on real runs of an embedded task, through what the tools call."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as evaluate
from vpeft.apis.run.train import train
from vpeft.core.models.build import build_model
from vpeft.core.trained.evaluate import evaluate as evaluate_set
from vpeft.core.trained.logits import read_logits
from vpeft.core.trained.run import open_run, open_runs
from vpeft.extension.agreement.report import read_runs, write_report
from vpeft.extension.changes.report import inside, write_inside
from vpeft.extension.interpolation.curve import data_sets, default_shifts, wise_curve, write_curves

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of short runs, tested with stored logits."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("linear", "lora", "sct", "hst"):
        options = {"train_cfg.max_epochs": 2, "log_level": "ERROR", "train_split": "train800", "eval_split": "val200"}
        cfg = load_config(ROOT / f"configs/mini/{name}_nano_vit.py", "digits", options)
        train(prepare(cfg, str(root / name), seed=0))
        cfg = load_config(ROOT / f"configs/mini/{name}_nano_vit.py", "digits", options)
        cfg.custom_hooks.append({"type": "vpeft.LogitsHook"})
        evaluate(prepare(cfg, str(root / name), seed=0), str(root / name / "adapter.safetensors"))
    return root


def result(runs, name):
    return json.loads((runs / name / "result.json").read_text())["metrics"]["accuracy/top1"]


def test_stored_logits_are_the_runs(runs):
    for name in ("linear", "lora", "hst"):
        stored = read_logits(runs / name)
        assert stored.accuracy == pytest.approx(result(runs, name), abs=1e-4)
        assert stored.logits.shape == (200, 10)
        assert stored.samples == [str(i) for i in range(200)]
        assert (stored.kind, stored.data["task"], stored.data["eval_split"]) == ("logits", "digits", "val200")
    run = open_run(runs / "lora")
    with torch.no_grad():
        first = next(iter(run.outputs(run.model(), range(1))))
    torch.testing.assert_close(read_logits(runs / "lora").logits[0].softmax(0), first.pred_score)


def test_similarity(runs, tmp_path):
    report = write_report(read_runs([runs / "linear", runs / "lora", runs / "sct"]), tmp_path, k=20)
    assert report["names"] == ["Linear", "LoRA", "SCT"]
    assert report["oracle"] >= max(report["members"].values())
    assert report["members"]["LoRA"] == pytest.approx(result(runs, "lora"), abs=1e-4)


def test_curves_over_alpha(runs, tmp_path):
    run = open_run(runs / "lora")
    lines = []
    report = wise_curve(run, ["noise-2", "blur-1"], (0.0, 0.5, 1.0), runs / "linear", lines.append)
    own = report["curves"]["in distribution"]
    assert own[0] == pytest.approx(result(runs, "linear"), abs=1e-4)  # the frozen host with the probe's head
    assert own[2] == pytest.approx(result(runs, "lora"), abs=1e-4)
    assert report["metric"] == "accuracy/top1"
    expected = [(a + b) / 2 for a, b in zip(report["curves"]["noise-2"], report["curves"]["blur-1"], strict=True)]
    assert report["shifted_mean"] == expected
    both = dict(zip((0.0, 0.5, 1.0), (a + b for a, b in zip(own, expected, strict=True)), strict=True))
    assert min(both.values()) < both[report["best"]] == max(both.values())
    assert set(report["how"]) == {"weights", "head"}
    assert len(lines) == 3
    write_curves([report], tmp_path)
    assert json.loads((tmp_path / "wise.json").read_text())[0]["curves"] == report["curves"]
    write_curves([{**report, "curves": {"in distribution": own}} | {"shifted_mean": expected}], tmp_path)
    assert "rotate-3" in default_shifts(run)


def test_wrong_use_of_curves(runs):
    run = open_run(runs / "lora")
    with pytest.raises(vpeft.UserError, match="did you mean 'noise'"):
        wise_curve(run, ["nois-2"])
    with pytest.raises(vpeft.UserError, match="starts at random"):
        wise_curve(run, [], (0.0,), "init")
    with pytest.raises(vpeft.UserError, match="gives an output of the shape"):
        wise_curve(open_run(runs / "hst"), [])
    real = load_config(ROOT / "configs/vtab/lora_vit.py", "dtd")
    run.cfg = real
    with pytest.raises(vpeft.UserError, match="no shifted test set 'noise-3'"):
        wise_curve(run, ["noise-3"])


def test_a_curve_from_a_head_that_is_read_from_a_file(tmp_path):
    """The start is the zero-shot model: the frozen host with the file's head."""
    save_file({"weight": torch.randn(10, 64)}, tmp_path / "head.safetensors")

    def config():
        options = {"train_cfg.max_epochs": 1, "log_level": "ERROR", "eval_split": "val200", "train_split": "train800"}
        cfg = load_config(ROOT / "configs/mini/adaptformer_nano_vit.py", "digits", options)
        file = str(tmp_path / "head.safetensors")
        cfg.model.head = {"type": "vpeft.EmbeddingHead", "file": file, "num_classes": 10, "in_channels": 64}
        cfg.model.head.scale = 10.0
        return cfg

    train(prepare(config(), str(tmp_path / "run"), seed=0))
    run = open_run(tmp_path / "run")
    report = wise_curve(run, [], (0.0, 1.0), "init")
    model = build_model(config())
    model.init_weights()  # AdaptFormer starts as the frozen host
    start = evaluate_set(model.eval(), run, data_sets(run, [])["in distribution"])
    assert report["curves"]["in distribution"][0] == start["accuracy/top1"]
    assert report["how"]["head"] == "interpolated"
    assert report["curves"]["in distribution"][1] != start["accuracy/top1"]


def test_inside(runs, tmp_path):
    numbers = write_inside(open_runs([runs / name for name in ("lora", "sct", "hst")]), tmp_path, count=64)
    lora, sct, hst = numbers
    assert [(s["where"], s["block"]) for s in lora["weights"]] == [("qkv.weight", i) for i in range(6)]
    assert len(lora["cka"]) == 6
    assert [s["count"] for s in sct["selected"]] == [16] * 6
    assert hst["contributions"] == []  # an output of another shape: only CKA
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"inside.json", "cka.png", "lora_updates.png", "sct_updates.png", "sct_structure.png"}
    assert all(abs(value) < 1e-9 for value in (inside(open_run(runs / "linear"), 64)["cka"].diagonal() - 1).tolist())


def tool(monkeypatch, capsys, name, *args):
    """What a tool prints; in this process, which has everything imported."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
    runpy.run_path(str(ROOT / "tools" / "analysis" / name))["main"]()
    return capsys.readouterr().out


def test_tools(runs, tmp_path, monkeypatch, capsys):
    out = tool(monkeypatch, capsys, "similarity.py", runs / "linear", runs / "lora", "--out", tmp_path / "s")
    assert "logit average of all" in out
    wise = ("wise.py", runs / "lora", "--shifts", "--alphas", 0, 1, "--out", tmp_path / "w")
    assert "6 tensors of the base interpolated as weights" in tool(monkeypatch, capsys, *wise)
    out = tool(monkeypatch, capsys, "inside.py", runs / "sct", "--samples", 32, "--out", tmp_path / "i")
    assert "selected" in out
    bare = shutil.copytree(runs / "lora", tmp_path / "bare")
    (bare / "logits.safetensors").unlink()
    with pytest.raises(vpeft.UserError, match="--dump-logits"):
        tool(monkeypatch, capsys, "similarity.py", runs / "linear", bare)


def test_a_tool_in_a_process_of_its_own():
    command = [sys.executable, str(ROOT / "tools/analysis/similarity.py"), "work_dirs/none", "work_dirs/nothing"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert out.returncode == 2
    assert out.stderr.strip().splitlines()[-1].startswith("error: work_dirs/none")
    assert "Traceback" not in out.stderr
