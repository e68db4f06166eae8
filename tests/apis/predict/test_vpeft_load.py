"""A run, an adapter file, a checkpoint and a merged file explain themselves."""

import shutil

import numpy as np
import pytest
import torch
from mmcv import imresize
from mmengine.logging import MMLogger
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.hosts import perturb

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.apis.export.merged import export_merged
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.train import train
from vpeft.core.adaptation.storing.adapter_file import read_adapter
from vpeft.core.backbones.nano import nano_path
from vpeft.core.models.build import build_model
from vpeft.core.trained.record import run_record
from vpeft.core.trained.run import open_run
from vpeft.errors import UserError

CONFIG = "configs/mini/lora_nano_vit.py"
FAST = {
    "train_cfg.max_epochs": 1,
    "train_dataloader.dataset.indices": 64,
    "test_dataloader.dataset.indices": 6,
    "log_level": "WARNING",
    "train_split": "train800",
    "val_dataloader.dataset.indices": 10,
    "default_hooks.checkpoint.save_best": "accuracy/top1",
    "default_hooks.checkpoint.interval": 1,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch, as training leaves it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(prepare(load_config(CONFIG, "digits", FAST), str(folder), seed=0))
    return folder


def scores(run, digits):
    return torch.stack([one.all_scores for one in run.predict(digits)])


def test_every_file_of_a_run_says_the_same(trained, digits, tmp_path):
    run = vpeft.load(trained)
    assert run.file.name == "adapter_best.safetensors"
    want = scores(run, digits)
    stated = {"mode": "Resize", "size": [32, 32], "interpolation": "bicubic"}
    assert run.preprocessing["resize"] == [stated]
    assert (run.family, run.preprocessing["mean"], run.preprocessing["channels"]) == (
        "classification",
        [127.5] * 3,
        "RGB",
    )
    for name in ("adapter.safetensors", "epoch_1.pth"):
        alone = shutil.copy(trained / name, tmp_path)
        assert torch.equal(scores(vpeft.load(alone), digits), want), name
    for name in ("merged.safetensors", "merged.pth"):
        export_merged(open_run(trained).cfg, str(trained / "adapter.safetensors"), str(tmp_path / name))
        run = vpeft.load(tmp_path / name)
        assert not any("peft" in key for key in run.model.state_dict())
        assert torch.allclose(scores(run, digits), want, atol=1e-5)
    with safe_open(tmp_path / "merged.safetensors", "pt") as file:
        assert '"backbone": null' in file.metadata()["vpeft_merged"]


def test_an_adapter_file_says_its_run(trained):
    said = read_adapter(trained / "adapter.safetensors")[1]
    assert said["format"] == "vpeft-adapter-2"
    assert said["run"]["backbone"] == "VisionTransformer"
    assert said["run"]["config"]["model"]["head"]["num_classes"] == 10


def test_a_file_without_a_record_is_loaded_by_its_folder(trained, digits, tmp_path):
    """As older vpeft wrote them."""
    shutil.copytree(trained, tmp_path / "old")
    (tmp_path / "old/adapter_best.safetensors").unlink()
    model = vpeft.load(trained / "adapter.safetensors").model
    vpeft.save_adapter(model, tmp_path / "old/adapter.safetensors")
    assert torch.equal(scores(vpeft.load(tmp_path / "old"), digits), scores(vpeft.load(trained), digits))
    with pytest.raises(UserError, match=r"adapter\.safetensors does not say of which run it is: give the run's folder"):
        vpeft.load(tmp_path / "old/adapter.safetensors")


def run_on(base, folder):
    """An adapter file whose base is a file."""
    cfg = load_config(CONFIG, "digits", {"model.backbone.init_cfg.checkpoint": str(base)})
    model = build_model(cfg)
    model.init_weights()
    file = folder / "adapter.safetensors"
    vpeft.save_adapter(perturb(model), file, classes=[f"digit {i}" for i in range(10)], run=run_record(cfg))
    return file


def test_a_base_that_has_moved_is_given(digits, tmp_path):
    base = shutil.copy(nano_path("nano_vit"), tmp_path / "base.safetensors")
    file = run_on(base, tmp_path)
    run = vpeft.load(file)
    assert run.predict(digits)[0].classes[0].startswith("digit ")
    want = scores(run, digits)
    moved = shutil.move(base, tmp_path / "moved.safetensors")
    with pytest.raises(UserError, match=r"the base .*base\.safetensors, and no such file is there.*weights="):
        vpeft.load(file)
    assert torch.equal(scores(vpeft.load(file, weights=moved), digits), want)
    with pytest.raises(UserError, match=r"weights=.*away: no such file"):
        vpeft.load(file, weights=tmp_path / "away")


def test_another_base_answers_nothing(tmp_path):
    file = run_on(nano_path("nano_vit"), tmp_path)
    other = {key: value + 0.01 for key, value in load_file(nano_path("nano_vit")).items()}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="was trained on other base weights"):
        vpeft.load(file, weights=tmp_path / "other.safetensors")


def test_an_address_in_a_file_is_not_followed(tmp_path):
    cfg = load_config(CONFIG, "digits")
    model = build_model(cfg)
    model.init_weights()
    cfg.model.backbone.init_cfg.checkpoint = "https://example.org/base.pth"
    file = vpeft.save_adapter(perturb(model), tmp_path / "a.safetensors", run=run_record(cfg))
    with pytest.raises(UserError, match=r"trained on the base at https://example\.org/base\.pth: fetch it"):
        vpeft.load(file)
    cfg = load_config(CONFIG, "digits")
    cfg.model.head.init_cfg = {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}
    file = vpeft.save_adapter(model, tmp_path / "b.safetensors", run=run_record(cfg))
    with pytest.raises(UserError, match="the base at torchvision://resnet50: fetch it"):
        vpeft.load(file)
    file = vpeft.save_adapter(model, tmp_path / "c.safetensors", run={"family": "classification"})
    with pytest.raises(UserError, match="does not describe its run"):
        vpeft.load(file)


def test_what_describes_no_model_is_refused(tmp_path):
    cfg = load_config(CONFIG, "digits")
    model = build_model(cfg)
    model.init_weights()
    perturb(model)
    for number, change in enumerate(({"type": "Resize"}, {"head": {"type": "LinearClsHead"}}, {"neck": 3})):
        record = run_record(cfg)
        record["config"]["model"] |= change
        file = vpeft.save_adapter(model, tmp_path / f"{number}.safetensors", run=record)
        with pytest.raises(UserError, match="the model that it describes cannot be built"):
            vpeft.load(file)


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(UserError, match=r"away does not exist"):
        vpeft.load(tmp_path / "away")
    with pytest.raises(UserError, match=r"holds neither adapter\.safetensors nor a checkpoint"):
        vpeft.load(tmp_path)


def test_a_merged_file_that_was_changed_is_refused(trained, tmp_path):
    file = tmp_path / "merged.safetensors"
    export_merged(open_run(trained).cfg, str(trained / "adapter.safetensors"), str(file))
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="was changed: its SHA-256"):
        vpeft.load(file)
    with pytest.raises(UserError, match="a merged file holds its base: leave weights out"):
        vpeft.load(file, weights=nano_path("nano_vit"))


PREPROCESSING = {"size": 32, "mean": [127.5] * 3, "std": [127.5] * 3, "crop": 0.8}


def adapted_network(folder):
    """A network of timm that was adapted in Python, and its base's file."""
    options = {"img_size": 32, "depth": 2, "num_classes": 3}
    base = folder / "base.safetensors"
    first = vpeft.load_backbone("timm/vit_tiny_patch16_224", weights=False, **options)
    save_file({key: value.contiguous() for key, value in first.state_dict().items()}, base)
    model = vpeft.load_backbone("timm/vit_tiny_patch16_224", weights=base, **options)
    torch.nn.init.normal_(vpeft.attach(model, "LoRA").head.weight)
    return perturb(model).eval(), base


def test_a_network_of_a_library_needs_no_config(tmp_path, digits, monkeypatch):
    model, base = adapted_network(tmp_path)
    file = tmp_path / "pets.safetensors"
    vpeft.save_adapter(model, file, classes=["cat", "dog", "owl"], preprocessing=PREPROCESSING)
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(MMLogger, "callHandlers", lambda logger, record: said.append(record.getMessage()))
        run = vpeft.load(file, device="cpu")
    assert not [one for one in said if one.startswith("Loaded")]  # the line of a weights file is no answer
    (found,) = run.predict(digits / "0.png")
    image = Image.open(digits / "0.png").convert("RGB")
    wide = imresize(np.asarray(image), (40, 40), interpolation="bicubic")[4:36, 4:36]
    pixels = torch.from_numpy((wide.astype(np.float32) - 127.5) / 127.5).permute(2, 0, 1)[None]
    with torch.no_grad():
        want = model(pixels).softmax(1)[0]
    assert torch.allclose(found.all_scores, want, atol=1e-5)
    assert found.classes[0] == ["cat", "dog", "owl"][int(want.argmax())]
    moved = base.rename(tmp_path / "moved.safetensors")
    with pytest.raises(UserError, match="no such file is there"):
        vpeft.load(file)
    again = vpeft.load(file, weights=moved, device="cpu").predict(digits / "0.png")[0]
    assert torch.equal(again.all_scores, found.all_scores)


def test_how_images_are_read_is_never_guessed(tmp_path):
    model, _ = adapted_network(tmp_path)
    vpeft.save_adapter(model, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match=r"does not say how its images are read: save it with preprocessing=dict"):
        vpeft.load(tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match="preprocessing is stated of a network of"):
        vpeft.save_adapter(model, tmp_path / "bare.safetensors", preprocessing={"size": 32})
