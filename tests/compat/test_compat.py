"""Each workaround does what it says."""

import logging
import os
import pickle
import subprocess
import sys

import pytest
import torch
from mmengine.fileio.backends import LocalBackend
from mmengine.runner import activation_checkpointing
from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.models.backbones import swin_transformer

import vpeft
from vpeft.compat import torchvision as mend


def test_torchvision_transforms_and_models_work():
    from torchvision import transforms

    assert transforms.Resize(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)


def test_a_whole_torchvision_is_left_alone(monkeypatch):
    """Where the plain import succeeds, no operator is defined."""
    kept = list(mend._keep_alive)
    mend.torchvision_without_ops()
    assert mend._keep_alive == kept


class Evil:
    def __init__(self, mark) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def test_loading_runs_no_code(tmp_path):
    torch.save({"state_dict": {}, "evil": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for name in ("evil.pth", "plain.pkl"):
        with pytest.raises(vpeft.UserError, match=name):
            CheckpointLoader.load_checkpoint(str(tmp_path / name), "cpu")
    assert not (tmp_path / "ran").exists()


def test_whole_and_truncated_checkpoints(tmp_path):
    torch.save({"state_dict": {"w": torch.arange(3.0)}}, tmp_path / "a.pth")
    assert CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"), "cpu")["state_dict"]["w"].sum() == 3
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "b.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(vpeft.UserError, match=r"b\.pth is truncated or no checkpoint"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "b.pth"), "cpu")


@pytest.mark.parametrize("checkpoint", [activation_checkpointing.checkpoint, swin_transformer.cp.checkpoint])
def test_checkpointing_gives_gradients_over_frozen_inputs(checkpoint):
    weight = torch.ones(3, requires_grad=True)
    checkpoint(lambda x: x * weight, torch.full((3,), 2.0)).sum().backward()
    assert torch.equal(weight.grad, torch.full((3,), 2.0))


def test_torch_itself_is_untouched():
    assert torch.utils.checkpoint.checkpoint.__module__ == "torch.utils.checkpoint"


def test_files_are_written_atomically(tmp_path):
    backend = LocalBackend()
    backend.put(b"old", str(tmp_path / "deep" / "file"))
    (tmp_path / "deep" / "file.d").mkdir()
    with pytest.raises(vpeft.UserError, match="is a folder, so no file can be written there"):
        backend.put(b"new", str(tmp_path / "deep" / "file.d"))
    assert (tmp_path / "deep" / "file").read_bytes() == b"old"
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["file", "file.d"]


def test_import_is_quiet():
    done = subprocess.run([sys.executable, "-c", "import vpeft"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert "MultiScaleDeformableAttention" not in done.stderr


def test_no_word_about_extras_on_the_standard_output(capsys):
    from mmengine.logging import print_log

    print_log("an extra is not installed", level=logging.DEBUG)
    assert capsys.readouterr().out == ""
    print_log("something to know")
    assert capsys.readouterr().out == "something to know\n"


def test_data_in_pickles_are_refused(tmp_path):
    import mmengine

    file = tmp_path / "annotations.pkl"
    mmengine.dump({"images": []}, str(file))
    with pytest.raises(vpeft.UserError, match=r"is a pickle, which runs code") as error:
        mmengine.load(str(file))
    assert len(str(error.value).splitlines()) == 1


def test_mmdet_imports_imgaug_when_a_lane_line_transform_is_built():
    code = """
import vpeft, sys
from mmdet.datasets.transforms import ImageAug
assert not {"imgaug", "imgaug.augmenters", "imagecorruptions", "numba"} & set(sys.modules)
lines = ImageAug([dict(name="Resize", parameters=dict(size=dict(height=8, width=8)), p=1)])
print(type(lines.pipeline).__module__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "imgaug.augmenters.meta", done.stderr
