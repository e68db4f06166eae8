"""Images drawn by rule, pretraining of the nano hosts, and the weights that ship with the package."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.registry import MODELS
from safetensors import safe_open
from safetensors.torch import load_file

from vpeft.apis.pretrain.nano import (
    Batch,
    ShapeClassifier,
    augment,
    build_backbone,
    normalise,
    pretrain,
    validate,
)
from vpeft.apis.pretrain.settings import PretrainSettings
from vpeft.core.backbones import nano
from vpeft.core.datasets.embedded.shapes import SHAPES, TEXTURES, draw_shapes
from vpeft.errors import UserError

ROOT = Path(__file__).parents[3]
HOSTS = ["nano_vit", "nano_swin"]


def test_shapes_are_the_same_for_the_same_seed_only():
    first, again, other = draw_shapes(60, [3, 0]), draw_shapes(60, [3, 0]), draw_shapes(60, [3, 1])
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.images, other.images)


def test_shapes_have_every_label_and_a_visible_object():
    drawn = draw_shapes(800, 0)
    assert drawn.images.shape == (800, 3, 32, 32)
    assert drawn.images.dtype == np.uint8
    assert drawn.masks.shape == (800, 32, 32)
    assert set(drawn.shapes) == set(range(len(SHAPES)))
    assert set(drawn.textures) == set(range(len(TEXTURES)))
    area = drawn.masks.mean((1, 2)) / 255
    assert area.min() > 0.01
    assert area.max() < 0.7
    inside = drawn.masks > 250
    contrast = [
        np.abs(image[:, on].mean(1) - image[:, ~on].mean(1)).max()
        for image, on in zip(drawn.images.astype(float), inside, strict=True)
    ]
    assert np.mean(np.array(contrast) > 25) > 0.9


def test_the_area_of_a_disc_is_that_of_its_radius():
    # Without stretch the signed distance of the disc is exact: pi (0.85 r)^2 pixels at radius r.
    y, x = np.mgrid[:64, :64] - 31.5
    radius = 20.0
    distance = SHAPES["disc"](x / radius, y / radius, np.float32(0.25)) * radius
    assert np.clip(0.5 - distance, 0, 1).sum() == pytest.approx(np.pi * 17**2, rel=0.005)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_lies_within_its_reach(name):
    y, x = np.mgrid[-1.6:1.6:0.02, -1.6:1.6:0.02]
    inside = SHAPES[name](x, y, np.float32(0.25)) < 0
    assert 0.2 < inside.sum() * 0.02**2 < 2.5
    assert 0.8 < np.hypot(x, y)[inside].max() < 1.5  # the corners of the zed are the farthest


@pytest.mark.parametrize(("n", "size"), [(0, 32), (5, 8)])
def test_too_few_or_too_small_images_are_refused(n, size):
    with pytest.raises(UserError, match="at least"):
        draw_shapes(n, 0, size)


def test_augment_moves_image_and_mask_alike():
    mask = torch.zeros(2, 32, 32, dtype=torch.uint8)
    mask[:, 3:9, 20:30] = 255
    labels = torch.zeros(2, dtype=torch.long)
    batch = Batch(mask[:, None].repeat(1, 3, 1, 1), mask, labels, labels, labels)
    seen = set()
    for seed in range(40):
        changed = augment(batch, torch.Generator().manual_seed(seed))
        plain, inverted = changed.images[:, 0], 255 - changed.images[:, 0]
        assert torch.equal(plain, changed.masks) or torch.equal(inverted, changed.masks)
        seen.add(tuple(int(i) for i in changed.masks[0].nonzero()[0]))
    assert len(seen) == 8  # four turns, each with and without the mirror


def test_pixels_become_minus_one_to_one():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).repeat(1, 3, 2, 2)
    assert normalise(pixels).unique().tolist() == [-1.0, 1.0]


def test_the_rate_rises_and_falls():
    settings = PretrainSettings("nano_vit", epochs=2, images=640, batch_size=64, warmup=0.25)
    rates = [settings.rate(step) for step in range(settings.steps)]
    assert settings.steps == 20
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.5 * (1 + np.cos(np.pi * 7 / 15)))
    assert rates[-1] < 0.02


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"host": "nano_vti"}, "nano_vit"), ({"epochs": 0}, "--epochs"), ({"images": 8}, "batch of 64")],
)
def test_wrong_settings_are_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        PretrainSettings(**{"host": "nano_vit", **wrong})


@pytest.mark.parametrize("host", HOSTS)
def test_two_steps_write_weights_and_log_and_are_repeatable(host, tmp_path):
    settings = PretrainSettings(host, epochs=1, images=16, batch_size=8, held_out=20, seed=5)
    for folder in ("a", "b"):
        accuracy = pretrain(settings, tmp_path / folder)
        assert 0 <= accuracy["both"] <= min(accuracy["shape"], accuracy["texture"]) <= 100
        assert sorted(p.name for p in (tmp_path / folder).iterdir()) == [f"{host}.log", f"{host}.safetensors"]
    first, again = (load_file(tmp_path / folder / f"{host}.safetensors") for folder in ("a", "b"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    log = (tmp_path / "a" / f"{host}.log").read_text()
    assert f'"host": "{host}"' in log
    assert "epoch 1/1 loss" in log
    plain = MODELS.build({**nano.NANO_BACKBONES[host], "type": f"mmpretrain.{nano.NANO_BACKBONES[host]['type']}"})
    plain.load_state_dict(first, strict=True)


def test_a_cut_run_goes_on_where_it_was(tmp_path, monkeypatch):
    settings = PretrainSettings("nano_vit", epochs=2, images=16, batch_size=8, held_out=10)
    pretrain(settings, tmp_path / "whole")
    from vpeft.apis.pretrain import nano as module

    run_epoch = module._run_epoch

    def cut(model, optimizer, settings, data, epoch, *args):
        if epoch == 1:
            raise KeyboardInterrupt
        return run_epoch(model, optimizer, settings, data, epoch, *args)

    monkeypatch.setattr(module, "_run_epoch", cut)
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, tmp_path / "cut")
    monkeypatch.setattr(module, "_run_epoch", run_epoch)
    with pytest.raises(UserError, match="other settings"):
        pretrain(PretrainSettings("nano_vit", epochs=3, images=16, batch_size=8), tmp_path / "cut")
    pretrain(settings, tmp_path / "cut")
    whole, cut = (load_file(tmp_path / name / "nano_vit.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_loss_of_a_blind_classifier_is_that_of_chance():
    model = ShapeClassifier(build_backbone("nano_swin"))
    for head in (model.shape_head, model.texture_head, model.cell_head):
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    batch = Batch(*(torch.from_numpy(part) for part in draw_shapes(10, 0)))
    chance = np.log(len(SHAPES)) + 2 * np.log(len(TEXTURES)) + np.log(2)
    assert model.loss(batch, label_smoothing=0.1).item() == pytest.approx(chance, rel=1e-5)
    first = validate(model, batch)
    assert first["shape"] == pytest.approx(100 * (batch.shapes == 0).float().mean().item())


@pytest.mark.parametrize("host", HOSTS)
def test_the_shipped_file_is_the_recorded_one(host):
    path = nano.nano_path(host)
    assert nano.sha256(path) == json.loads((nano.HERE / "checksums.json").read_text())[path.name]
    log = (nano.HERE / f"{host}.log").read_text()
    assert nano.sha256(path) in log
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["backbone"]) == json.loads(json.dumps(nano.NANO_BACKBONES[host]))


def test_unknown_and_changed_weights_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="did you mean 'nano_swin'"):
        CheckpointLoader.load_checkpoint("vpeft://nano_swim")
    name = "nano_vit.safetensors"
    (tmp_path / "checksums.json").write_text((nano.HERE / "checksums.json").read_text())
    monkeypatch.setattr(nano, "HERE", tmp_path)
    with pytest.raises(UserError, match="is missing"):
        nano.nano_path("nano_vit")
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(UserError, match="SHA-256"):
        nano.nano_path("nano_vit")


@pytest.mark.parametrize("host", HOSTS)
def test_the_config_builds_and_loads_the_shipped_weights(host):
    config = Config.fromfile(ROOT / f"configs/_base_/models/classification/{host}.py").model
    settings = dict(config.backbone)
    assert settings.pop("init_cfg") == {"type": "Pretrained", "checkpoint": f"vpeft://{host}"}
    assert settings == nano.NANO_BACKBONES[host]
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(config)
        model.init_weights()
    shipped = load_file(nano.nano_path(host))
    state = model.backbone.state_dict()
    assert set(shipped) == set(state)
    assert all(torch.equal(shipped[name], state[name]) for name in shipped)
    logits = model(torch.zeros(2, 3, 32, 32), mode="tensor")
    assert logits[-1].shape[0] == 2 if isinstance(logits, tuple) else logits.shape[0] == 2


@pytest.mark.parametrize("host", HOSTS)
def test_the_shipped_features_tell_shapes_and_textures(host):
    # A least-squares readout of 1500 fresh images, tested on 500: far above that of random weights.
    train, test = draw_shapes(1500, [99, 0]), draw_shapes(500, [99, 1])

    def accuracy(backbone, labels):
        model = ShapeClassifier(backbone).eval()
        with torch.no_grad():
            known, new = (model.features(normalise(torch.from_numpy(d.images)))[0] for d in (train, test))
        mean, std = known.mean(0), known.std(0) + 1e-6
        known, new = ((part - mean) / std for part in (known, new))
        known, new = (torch.cat([part, torch.ones(len(part), 1)], 1) for part in (known, new))
        targets = torch.nn.functional.one_hot(torch.from_numpy(getattr(train, labels))).float()
        inverse = torch.linalg.solve(known.T @ known + 1.0 * torch.eye(known.shape[1]), known.T @ targets)
        return ((new @ inverse).argmax(1) == torch.from_numpy(getattr(test, labels))).float().mean().item()

    torch.manual_seed(0)
    random, trained = build_backbone(host), build_backbone(host)
    trained.load_state_dict(load_file(nano.nano_path(host)))
    for labels in ("shapes", "textures"):
        assert accuracy(trained, labels) > accuracy(random, labels) + 0.15


@pytest.mark.slow
def test_the_tool_tells_wrong_use_in_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "tools/pretrain_nano.py"), "vit", "--epochs", "0", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: --epochs 0: must be at least 1."
