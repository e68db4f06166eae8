"""Runs on a user's own data, from the command to the result."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import own

from vpeft.apis.commands.words.data.data import main as data_word
from vpeft.apis.commands.words.run.train import main as train_word
from vpeft.apis.config.load import load_config
from vpeft.apis.run.own import learning_rates
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.train import train
from vpeft.core.trained.run import open_run
from vpeft.errors import UserError


def run(tmp_path, data, *options):
    work = tmp_path / "run"
    train_word([str(data), "--work-dir", str(work), *map(str, options)])
    return work, json.loads((work / "result.json").read_text())


def test_sixty_mixed_images(tmp_path, capsys):
    work, result = run(tmp_path, own.mixed_folder(tmp_path / "data"), "--epochs", 4)
    said = capsys.readouterr().out
    assert "folders of classes: classification, 59 images (train 47, val 12), 3 classes" in said
    assert "left out, since it cannot be read:" in said
    assert "no --model is named: nano_vit is shipped" in said
    assert "% on the validation part, by which the moment was chosen too" in said
    assert (result["eval_split"], result["tested"]) == ("val", "best")
    assert result["main_metric"]["name"] == "accuracy/top1"
    assert result["main_metric"]["value"] == pytest.approx(result["validation"]["value"])
    assert result["main_metric"]["value"] > 0.5
    assert result["checkpoint"].endswith("adapter_best.safetensors")
    assert open_run(work).cfg.classes == ["blue", "green", "red"]


def test_a_test_part_is_tested_once(tmp_path, capsys):
    own.class_folder(tmp_path / "data" / "train", each=6)
    own.class_folder(tmp_path / "data" / "test", each=2, start=50)
    work, result = run(tmp_path, tmp_path / "data", "--epochs", 2)
    said = capsys.readouterr().out
    assert result["eval_split"] == "test"
    assert "on the test part, looked at once" in said
    assert "on the validation part, at its best" in said
    logs = "".join(file.read_text() for file in work.rglob("*.log"))
    assert logs.count("Epoch(test)") == 1


def test_the_shown_config_trains_alone(tmp_path, capsys):
    data = own.class_folder(tmp_path / "data", each=4)
    train_word([str(data), "--work-dir", str(tmp_path / "run"), "--epochs", "1", "--show-config"])
    (tmp_path / "shown.py").write_text(capsys.readouterr().out)
    assert not list((tmp_path / "run").glob("*.safetensors"))
    runner = train(prepare(load_config(tmp_path / "shown.py"), str(tmp_path / "alone")))
    assert runner.iter == 5
    assert (tmp_path / "alone" / "adapter_best.safetensors").is_file()


def test_several_labels(tmp_path):
    _, result = run(tmp_path, own.csv_file(tmp_path / "data"), "--epochs", 2)
    assert result["main_metric"]["name"] == "multi-label/mAP"
    assert 0 < result["main_metric"]["value"] <= 1


def test_an_image_without_any_label(tmp_path):
    file = own.csv_file(tmp_path / "data")
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1].split(",")[0] + ",", *lines[2:]]))
    _, result = run(tmp_path, file, "--epochs", 1)
    assert result["main_metric"]["value"] is not None


def test_label_maps(tmp_path):
    pytest.importorskip("mmseg")
    _, result = run(tmp_path, own.maps(tmp_path / "data"), "--epochs", 2)
    assert result["main_metric"]["name"] == "mIoU"
    assert result["main_metric"]["value"] > 0.25


def test_clips_of_frames(tmp_path):
    pytest.importorskip("mmaction")
    _, result = run(tmp_path, own.frames(tmp_path / "data", each=4, count=9), "--epochs", 1)
    assert result["main_metric"]["name"] == "acc/top1"


@pytest.mark.slow
def test_videos(tmp_path):
    pytest.importorskip("mmaction")
    pytest.importorskip("decord")
    _, result = run(tmp_path, own.videos(tmp_path / "data", each=4), "--epochs", 1)
    assert result["main_metric"]["name"] == "acc/top1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "metric"),
    [
        (own.coco, "coco/bbox_mAP"),
        (lambda root: own.coco(root, masks=True), "coco/segm_mAP"),
        (own.yolo, "coco/bbox_mAP"),
        (lambda root: own.yolo(root, outlines=True), "coco/segm_mAP"),
    ],
)
def test_boxes_and_masks(tmp_path, make, metric):
    pytest.importorskip("mmdet")
    work, result = run(tmp_path, make(tmp_path / "data"), "--epochs", 1)
    assert result["main_metric"] is None or result["main_metric"]["name"] == metric
    assert (work / "adapter.safetensors").is_file()


@pytest.mark.slow
def test_boxes_are_found(tmp_path):
    """Labels, boxes and images belong together: what is learned is found."""
    pytest.importorskip("mmdet")
    _, result = run(tmp_path, own.coco(tmp_path / "data", each=16), "--epochs", 8)
    assert result["main_metric"]["value"] > 0.3


@pytest.mark.slow
def test_the_learning_rate_is_searched_on_validation(tmp_path, capsys):
    pytest.importorskip("optuna")
    data = own.class_folder(tmp_path / "data", each=4)
    capsys.readouterr()
    first, second = rates = learning_rates(load_config("configs/mini/lora_nano_vit.py").optim_wrapper.optimizer.lr, 2)
    work, _ = run(tmp_path, data, "--epochs", 1, "--tune", 2)
    out, err = capsys.readouterr()
    assert out.startswith("folders of classes: classification, 12 images")  # before the search
    said = f"searched   own.py, own: 2 trials, 1 at a time; all combinations\n           lr: {first:g}, {second:g}\n"
    assert said in err
    assert len(re.findall(r"^\[\d/2\] tuning/own/own/trial000\d  lr 0.0\d+  [\d.]+ %", err, re.MULTILINE)) == 2
    assert re.search(r"^best       trial \d: lr 0.0\d+  [\d.]+ % on the validation images$", err, re.MULTILINE)
    trials = sorted((work / "tune").rglob("trial*.json"))
    assert [json.loads(file.read_text())["state"] for file in trials] == ["complete"] * 2
    best = json.loads(next((work / "tune").rglob("best.json")).read_text())
    assert open_run(work).cfg.optim_wrapper.optimizer.lr == next(iter(best["options"].values())) in rates


def test_learning_rates_begin_with_the_methods_own():
    assert learning_rates(0.001, 1) == [0.001]
    np.testing.assert_allclose(learning_rates(0.001, 4), [0.001, 0.000316, 0.00316, 0.0001], rtol=1e-3)


def test_the_word_data(tmp_path, capsys):
    own.class_folder(tmp_path / "data", each=6)
    data_word([str(tmp_path / "data"), "--test-share", "0.2", "--sheet", str(tmp_path / "sheet.png")])
    said = capsys.readouterr().out
    assert "18 images (train 10, val 4, test 4)" in said
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="does not exist"):
        data_word([str(tmp_path / "nothing")])


def test_data_that_are_called_as_a_command(tmp_path, capsys, monkeypatch):
    own.frames(tmp_path / "clips", each=2, count=3)
    monkeypatch.chdir(tmp_path)
    data_word(["clips"])
    assert "folders of frames by class: video, 4 clips (train 2, val 2), 2 classes" in capsys.readouterr().out
    with pytest.raises(UserError, match="the following arguments are required: out"):
        data_word(["label-maps"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "does not exist, seen from"),
        (["configs/mini/lora_nano_vit.py", "--epochs", "3"], "--epochs is for DATA"),
        (["{data}", "--task", "digits"], "--task digits is for the config of a suite"),
        (["{data}", "--val-share", "0.7"], "--val-share 0.7"),
    ],
)
def test_words_that_do_not_belong_together(tmp_path, arguments, said):
    data = own.class_folder(tmp_path / "data", each=2)
    with pytest.raises(UserError, match=said):
        train_word([one.format(data=data) for one in arguments])


def test_one_line_of_a_wrong_folder(tmp_path):
    """The command as it is typed: one line and the status of wrong input."""
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "vpeft", "train", str(tmp_path / "empty")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "holds no images or videos in class folders" in done.stderr


def test_going_on_is_the_same_as_never_stopping(tmp_path, capsys):
    """A run that was stopped after an epoch, and goes on: the same tensors, and the best so far is not forgotten."""
    data = own.class_folder(tmp_path / "data", each=4)
    flags = [str(data), "--epochs", "3", "--cfg-options", "default_hooks.checkpoint.max_keep_ckpts=-1"]
    for name in ("whole", "cut"):
        train_word([*flags, "--work-dir", str(tmp_path / name)])
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for file in (*cut.glob("*.safetensors"), cut / "epoch_2.pth", cut / "epoch_3.pth", cut / "result.json"):
        file.unlink()
    (cut / "last_checkpoint").write_text(str(cut / "epoch_1.pth"))
    capsys.readouterr()
    train_word([*flags, "--work-dir", str(cut), "--resume"])
    err = capsys.readouterr().err
    assert "goes on    behind iteration " in err
    for name in ("adapter.safetensors", "adapter_best.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    one, two = (json.loads((folder / "result.json").read_text()) for folder in (whole, cut))
    assert one["metrics"] == two["metrics"]
    assert one["validation"] == two["validation"]
    best = [float(value) for value in re.findall(r"\(best ([\d.]+) %\)", err)]
    assert best[-1] == pytest.approx(100 * two["validation"]["value"], abs=0.01)

    with pytest.raises(UserError, match=r"--resume: .*cut was trained on other images, or on another division of them"):
        train_word([*flags, "--work-dir", str(cut), "--resume", "--seed", "5"])


def test_a_flag_and_an_option_that_contradict_each_other(tmp_path):
    data = own.class_folder(tmp_path / "data", each=4)
    with pytest.raises(UserError, match=r"--epochs 3 and --cfg-options train_cfg\.max_epochs=2 contradict each other"):
        train_word([str(data), "--epochs", "3", "--cfg-options", "train_cfg.max_epochs=2"])


@pytest.mark.slow
def test_two_processes(tmp_path):
    """The first one writes and speaks; the other waits for the adapter that both test."""
    data = own.class_folder(tmp_path / "data", each=4)
    tool = Path(__file__).parents[3] / "tools/train.py"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    call = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", str(tool)]
    call += [str(data), "--launcher", "pytorch", "--epochs", "1", "--work-dir", str(tmp_path / "run")]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("folders of classes: classification, 12 images") == 1
    assert done.stdout.count("on the validation part, by which the moment was chosen too") == 1
    assert json.loads((tmp_path / "run/result.json").read_text())["tested"] == "best"
    with pytest.raises(UserError, match="a search runs in one process"):
        train_word([str(data), "--launcher", "pytorch", "--tune", "2"])
