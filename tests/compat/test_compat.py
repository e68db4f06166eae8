"""Each workaround does what it says."""

import importlib.metadata
import importlib.util
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine import Config
from mmengine.fileio.backends import LocalBackend
from mmengine.runner import activation_checkpointing
from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.models.backbones import swin_transformer
from torch import nn

import vpeft
from vpeft.compat import torchvision as mend
from vpeft.errors import UserError
from vpeft.files import read_config


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


def test_checkpointing_names_a_module_that_is_not_there():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"^activation_checkpointing: the model has no module '1': Known: 0"):
        activation_checkpointing.turn_on_activation_checkpointing(model, ["0", "1"])


def test_checkpointing_by_mmengine_passes_keywords_on():
    block = nn.Linear(2, 2)
    block.forward = lambda x, scale=1.0: x * scale
    activation_checkpointing.turn_on_activation_checkpointing(nn.Sequential(block), "0")
    assert torch.equal(block(torch.ones(3), scale=2.0), torch.full((3,), 2.0))


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


@pytest.mark.parametrize(
    ("base", "key"),
    [
        ("mmseg::_base_/models/upernet_swin.py", "model.decode_head.num_classes"),
        ("mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py", "param_scheduler"),
        ("mmdet::_base_/models/retinanet_r50_fpn.py", "model.bbox_head.num_classes"),
        ("mmpretrain::_base_/models/vit-base-p16.py", "model.backbone.arch"),
        ("mmaction::_base_/default_runtime.py", "default_hooks"),
        (
            "mmaction::recognition/swin/swin-tiny-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_kinetics400-rgb.py",
            "model.type",
        ),
    ],
)
def test_configs_of_installed_packages_are_bases(tmp_path, base, key):
    (tmp_path / "own.py").write_text(f"_base_ = [{base!r}]\nown = 3\n")
    cfg = Config.fromfile(tmp_path / "own.py")
    package = base.partition("::")[0]
    file = Path(importlib.util.find_spec(package).origin).parent / ".mim/configs" / base.partition("::")[2]
    theirs, ours = Config.fromfile(file), cfg
    for part in key.split("."):
        theirs, ours = theirs[part], ours[part]
    assert without_scopes(ours) == theirs
    assert cfg.own == 3


def without_scopes(value):
    """Without what mmengine adds to say which package's registry builds a part."""
    if isinstance(value, dict):
        return {key: without_scopes(one) for key, one in value.items() if key != "_scope_"}
    return [without_scopes(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("mmsegg::_base_/models/upernet_swin.py", "there is no package 'mmsegg': pip install mmsegg, or correct"),
        ("mmseg::_base_/models/upernet_swim.py", "did you mean mmseg::_base_/models/upernet_swin.py?"),
        ("mmengine::_base_/default_runtime.py", "mmengine was installed without its configs"),
    ],
)
def test_a_base_that_no_package_has_is_one_line(tmp_path, base, said):
    (tmp_path / "own.py").write_text(f"_base_ = [{base!r}]\n")
    with pytest.raises(vpeft.UserError) as error:
        read_config(tmp_path / "own.py")
    assert said in str(error.value)
    assert str(error.value).startswith(f"config {base}: ")
    assert len(str(error.value).splitlines()) == 1


def test_a_package_is_asked_for_by_the_name_of_what_is_installed():
    """mmengine.hub installs what it does not find under that name."""
    from mmengine.config.utils import MODULE2PACKAGE

    for module in ("mmseg", "mmdet", "mmpretrain", "mmaction"):
        assert importlib.metadata.version(MODULE2PACKAGE[module])
