"""The record of a run in its files."""

import copy

import pytest
import torch
from mmengine import Config
from mmengine.registry import Registry

from vpeft.apis.config.load import load_config
from vpeft.core.trained.record import network_config, record_config, registered_names, run_record, stated_preprocessing
from vpeft.errors import UserError


@pytest.fixture(scope="module")
def record():
    return run_record(load_config("configs/mini/lora_nano_vit.py", "digits"))


def test_a_record_gives_the_config_again(record):
    cfg = load_config("configs/mini/lora_nano_vit.py", "digits")
    found = record_config(record, "a file")
    assert found.model.to_dict() == cfg.model.to_dict()
    assert found.test_dataloader.dataset.pipeline[1]["scale"] == (32, 32)  # a tuple, as it was
    assert found.data_preprocessor.to_dict() == cfg.data_preprocessor.to_dict()
    assert found.test_dataloader.batch_size == 256


def test_a_config_without_a_model_has_none():
    assert run_record(Config({"default_scope": "mmpretrain"})) is None


def test_what_json_cannot_say_is_left_out(record):
    cfg = load_config("configs/mini/lora_nano_vit.py", "digits")
    cfg.model.backbone.dtype = torch.bfloat16
    said = run_record(cfg)
    assert (said["family"], said["backbone"], said["config"]) == ("classification", "VisionTransformer", None)
    with pytest.raises(UserError, match="which JSON cannot say: load its folder instead"):
        record_config(said, "a file")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["model"].update(type="subprocess.call"),
            "asks for 'subprocess.call', which is no registered",
        ),
        (lambda c: c["model"].update(type="mmengine.dump"), "asks for 'mmengine.dump', which is no registered"),
        (lambda c: c["model"]["backbone"].update(of="os"), "asks for 'os', which is no registered part"),
        (lambda c: c["model"]["head"].update(trust_remote_code=True), "asks for 'trust_remote_code'"),
        (lambda c: c["pipeline"][0].update(dtype="f if exec('1') else f"), "as dtype, which may be code: refused"),
        (lambda c: c["model"]["head"].update(names="list.PKL"), "holds 'list.PKL' as names, which may be code"),
        (lambda c: c.update(batch_size=0), r"does not describe its run \(config.batch_size"),
        (lambda c: c.pop("pipeline"), r"does not describe its run \(config"),
    ],
)
def test_a_record_names_no_code(record, change, said):
    changed = copy.deepcopy(record)
    change(changed["config"])
    with pytest.raises(UserError, match=said):
        record_config(changed, "a file")


def test_another_package_is_refused(record):
    with pytest.raises(UserError, match="of the package 'shutil', which vpeft does not know"):
        record_config({**record, "scope": "shutil"}, "a file")


def test_preprocessing_in_words():
    steps = [
        {"type": "vpeft.LoadImage"},
        {"type": "ResizeEdge", "scale": 256, "edge": "short", "interpolation": "bicubic"},
        {"type": "CenterCrop", "crop_size": 224},
        {"type": "PackInputs"},
    ]
    found = stated_preprocessing(steps, {"mean": [1, 2, 3], "std": [4, 5, 6], "to_rgb": False})
    assert found["resize"] == [
        {"mode": "ResizeEdge", "size": 256, "interpolation": "bicubic", "edge": "short"},
        {"mode": "CenterCrop", "size": 224},
    ]
    assert (found["mean"], found["std"], found["channels"]) == ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], "BGR")


def test_packages_may_register_more_while_names_are_looked_up():
    """In a fresh process the first look imports mmpretrain, whose own imports make further registries."""
    root = Registry("vpeft test of records", scope="vpeft_root")
    child = Registry("vpeft test of records", parent=root, scope="vpeft_child")
    child.import_from_location = lambda: Registry("vpeft test of records", parent=root, scope="vpeft_other")
    root.register_module(name="One", module=dict)
    child.register_module(name="Two", module=dict)
    assert sorted(registered_names(root)) == ["One", "Two"]


def test_what_a_packages_import_registers_above_it_is_known():
    """mmdet's models import mmcv, whose norms are parts of mmengine's own registry."""
    root = Registry("vpeft test of records", scope="vpeft_above")
    child = Registry("vpeft test of records", parent=root, scope="vpeft_below")
    child.import_from_location = lambda: root.register_module(name="GN", module=dict, force=True)
    assert "GN" in registered_names(root)


def test_a_networks_options_name_no_code():
    said = {"family": "classification", "scope": "mmpretrain", "backbone": "hf/dinov2", "preprocessing": None}
    network = {"of": "hf/dinov2", "options": {"attn_implementation": "somebody/kernel"}}
    with pytest.raises(UserError, match="holds 'somebody/kernel' as attn_implementation, which may be code"):
        network_config({**said, "config": None, "network": network}, "a file")
