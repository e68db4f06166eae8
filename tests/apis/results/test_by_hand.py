"""Runs that are trained and tested by hand, and leaderboards."""

import json
import shutil
from pathlib import Path

import pytest

from vpeft.apis.benchmark.run_job import RunJob
from vpeft.apis.config.load import load_config
from vpeft.apis.leaderboard.boards import boards
from vpeft.apis.results.files import read_result, read_results
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.train import train
from vpeft.core.families.tested import units_of_test
from vpeft.errors import UserError

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs/mini/lora_nano_vit.py"
FAST = {"train_cfg.max_epochs": 1, "train_dataloader.batch_size": 250, "log_level": "WARNING"}


def config(work_dir, seed=0, **options):
    return prepare(load_config(CONFIG, "digits", {**FAST, **options}), str(work_dir), seed=seed)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """A run of seed 2."""
    folder = tmp_path_factory.mktemp("by_hand") / "run"
    train(config(folder, seed=2))
    return folder


def test_a_run_by_hand_stands_in_a_leaderboard(by_hand, tmp_path):
    cfg = config(tmp_path / "test", seed=None)  # the seed is that of the training
    run_test(cfg, str(by_hand / "adapter.safetensors"), str(tmp_path / "results"))
    stored = read_result(tmp_path / "test" / "result.json")
    assert (stored["method"], stored["backbone"], stored["task"], stored["seed"]) == ("LoRA", "nano_vit", "digits", 2)
    assert stored["variant"] == {"train_cfg.max_epochs": 1, "train_dataloader.batch_size": 250}
    assert stored["protocol"] | {"faults": []} == stored["protocol"]
    answers, of, _ = units_of_test(stored["test_answers"])
    assert (answers.sum(), of.sum()) == (round(797 * stored["main_metric"]["value"]), 797)
    results = read_results(tmp_path / "results")
    assert results.broken == []
    assert [result["checksum"] for result in results.honest().runs.values()] == [stored["checksum"]]
    (board,) = boards(results)
    assert [entry.row[:2] for entry in board.entries] == [("LoRA", "nano_vit")]
    job = RunJob(str(tmp_path), str(CONFIG), "LoRA", "nano_vit", "digits", "mini", 2, variant=FAST)
    assert (stored["hash"], stored["setting"]) == job._hashes  # the very run that a benchmark would know
    (file,) = results.runs
    assert file == tmp_path / "results/runs/lora_nano_vit/digits" / f"seed2-{stored['hash'][:12]}.json"


def test_what_was_trained_otherwise_is_told(by_hand, tmp_path):
    cfg = config(tmp_path / "test", **{"optim_wrapper.optimizer.lr": 0.5})
    stored = run_test(cfg, str(by_hand / "adapter.safetensors"))
    fault = "trained with other settings than it is tested with: optim_wrapper.optimizer.lr"
    assert stored["protocol"]["faults"] == [fault]
    shutil.copy(by_hand / "adapter.safetensors", tmp_path)
    stored = run_test(config(tmp_path / "test"), str(tmp_path / "adapter.safetensors"))
    assert stored["protocol"]["faults"] == ["how it was trained is not recorded beside the tested file"]


@pytest.fixture
def cheat(tmp_path):
    """A config without a suite that trains on its test list."""
    file = tmp_path / "cheat.py"
    data = 'dict(dataset=dict(_delete_=True, type="vpeft.MiniVTAB", task="digits", split="test", pipeline={}))'
    text = f'_base_ = ["{CONFIG}"]\nsuite = None\ndata_variant = "files"\nmain_metric = "accuracy/top1"\n'
    text += "val_dataloader = val_cfg = val_evaluator = None\nmodel = dict(head=dict(num_classes=10))\n"
    steps = '[dict(type="vpeft.LoadImage"), dict(type="PackInputs")]'
    lines = [f"{name}_dataloader = {data.format(steps)}\n" for name in ("train", "test")]
    file.write_text(text + "".join(lines))
    return file


def test_training_on_the_test_images_is_a_fault(cheat, tmp_path):
    fault = "797 of 797 images are for training and for test, such as an image in memory"
    job = RunJob(str(tmp_path / "root"), str(cheat), "LoRA", "nano_vit", "digits", None, 0, options=FAST)
    job.run()
    assert job.result()["protocol"]["faults"] == [fault]
    cfg = prepare(load_config(cheat, None, FAST), str(tmp_path / "run"), seed=0)
    train(cfg)
    cfg = prepare(load_config(cheat, None, FAST), str(tmp_path / "test"), seed=0)
    stored = run_test(cfg, str(tmp_path / "run" / "adapter.safetensors"), str(tmp_path / "results"))
    assert fault in stored["protocol"]["faults"]
    assert boards(read_results(tmp_path / "results")) == []


def test_a_config_of_ones_own_names_no_data_and_stays_out(by_hand, tmp_path):
    cfg = config(tmp_path / "test")
    cfg.suite = cfg.data_variant = cfg.methods_table = None
    with pytest.raises(UserError, match="does not say which data it reads: set data_variant"):
        run_test(config(tmp_path / "other", data_variant=None), str(by_hand / "adapter.safetensors"))
    run_test(cfg, str(by_hand / "adapter.safetensors"))
    stored = json.loads((tmp_path / "test" / "result.json").read_text())
    assert stored["data_variant"] is None
    with pytest.raises(UserError):
        read_result(tmp_path / "test" / "result.json")


def test_every_data_set_says_what_it_is(monkeypatch):
    monkeypatch.chdir(ROOT)
    stated = {
        name: load_config(f"configs/{name}.py").get("data_variant")
        for name in (
            "mini/lora_nano_vit",
            "mini/lora_nano_vit_video",
            "vtab/lora_vit",
            "fgvc/lora_vit",
            "many_shot/lora_vit",
            "robustness/lora_clip-vit-b_imagenet",
            "video/lora_vit-b_k400",
            "detection/lora_swin-b_coco",
            "segmentation/lora_swin-l_ade20k",
        )
    }
    embedded = {name for name, variant in stated.items() if variant == "embedded"}
    assert embedded == {"mini/lora_nano_vit", "mini/lora_nano_vit_video"}
    assert set(stated.values()) == {"embedded", "jpeg", "files"}
