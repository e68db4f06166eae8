"""Runs opened from their folders, and what is no run."""

import json
import shutil

import pytest
import torch
from support.runs import write_run

import vpeft
from vpeft.core.trained.run import class_names, open_run, open_runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "lora", samples=20)


def test_a_run_is_what_was_written(folder):
    run = open_run(folder)
    assert (run.method, run.host, run.task, run.label) == ("LoRA", "VisionTransformer", "digits", "LoRA")
    assert run.test_data == {"indices": 20, "split": "test", "task": "digits", "type": "vpeft.MiniVTAB"}
    model = run.model()
    up = model.state_dict()["backbone.layers.2.peft.lora.qkv.up.q"]
    assert up.abs().max() > 0  # LoRA starts at zero
    assert not model.training
    samples = list(run.outputs(model, [3, 1], size=1))
    assert [int(s.gt_label) for s in samples] == [int(run.dataset()[i]["data_samples"].gt_label) for i in (3, 1)]
    whole = list(run.outputs(model))
    assert len(whole) == 20
    torch.testing.assert_close(whole[3].pred_score, samples[0].pred_score)
    assert class_names(run.dataset(), [0, 2]) == ["0", "1", "2"]


def test_what_it_computes_has_a_name(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "copy")
    assert open_run(other).digest() == open_run(folder).digest()
    adapter = other / "adapter.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"\x01")
    assert open_run(other).digest() != open_run(folder).digest()


def test_the_last_checkpoint_stands_in_for_the_adapter_file(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "copy")
    (other / "adapter.safetensors").unlink()
    with pytest.raises(vpeft.UserError, match=r"neither adapter\.safetensors nor a checkpoint"):
        open_run(other)
    for name in ("epoch_9.pth", "epoch_10.pth", "best_7.pth"):
        (other / name).touch()
    assert open_run(other).checkpoint.name == "epoch_10.pth"


def test_what_is_no_run_is_refused(folder, tmp_path):
    with pytest.raises(vpeft.UserError, match=r"nowhere is no folder: give a run's --work-dir"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(vpeft.UserError, match="holds no config"):
        open_run(tmp_path)
    other = shutil.copytree(folder, tmp_path / "copy")
    shutil.copy(other / "lora_nano_vit.py", other / "more.py")
    with pytest.raises(vpeft.UserError, match=r"several configs \(lora_nano_vit\.py, more\.py\)"):
        open_run(other)
    (other / "result.json").write_text(json.dumps({"config": "more.py"}))
    assert open_run(other).cfg.filename.endswith("more.py")
    (other / "result.json").write_text("{")
    with pytest.raises(vpeft.UserError, match=r"result\.json is truncated or no JSON"):
        open_run(other)


def test_runs_that_are_compared(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "second")
    assert [run.label for run in open_runs([folder, other])] == ["lora", "second"]
    swin = write_run(tmp_path / "swin", "lora_nano_swin", samples=20)
    linear = write_run(tmp_path / "linear", "linear_nano_vit", samples=20)
    assert [run.label for run in open_runs([folder, linear])] == ["LoRA", "Linear"]
    assert [run.label for run in open_runs([folder, swin])] == ["LoRA, VisionTransformer", "LoRA, SwinTransformer"]
    with pytest.raises(vpeft.UserError, match="was given twice"):
        open_runs([folder, folder])
    with pytest.raises(vpeft.UserError, match="no run was given"):
        open_runs([])
    tissue = write_run(tmp_path / "tissue", "linear_nano_vit", "tissue", samples=20)
    with pytest.raises(vpeft.UserError, match="different data: task is 'digits' and 'tissue'"):
        open_runs([folder, tissue])
    assert len(open_runs([folder, tissue], same_data=False)) == 2
