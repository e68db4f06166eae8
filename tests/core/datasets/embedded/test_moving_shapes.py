"""Moving shapes: a frame says nothing, the frames together say the class."""

import decord
import numpy as np
import pytest
import torch
from scipy.stats import kstest

from vpeft.apis.config.load import build_model, load_config
from vpeft.core.datasets.embedded import moving_shapes as video_moving
from vpeft.core.datasets.embedded.moving_shapes import (
    CLASSES,
    FRAMES,
    SIZE,
    SPLITS,
    _motion,
    clip,
    draw_clips,
    ensure_moving,
)
from vpeft.errors import UserError


def drawn(label, seed=7):
    return clip(np.random.default_rng(seed), label)


def test_the_first_frame_knows_no_class():
    clips = [drawn(label) for label in range(len(CLASSES))]
    assert all(np.array_equal(c[0], clips[0][0]) for c in clips)
    assert len({c[1].tobytes() for c in clips}) == len(CLASSES)
    assert clips[0].shape == (FRAMES, SIZE, SIZE, 3)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("frame", [0, 5, FRAMES - 1])
def test_places_and_angles_of_every_frame_are_uniform(name, frame):
    rng = np.random.default_rng(0)
    values = []
    for _ in range(2000):
        (x, y), angle = _motion(rng, name, rng.uniform(0, SIZE, (2, 1)), rng.uniform(0, 2 * np.pi, 1))
        values.append([x[frame, 0] / SIZE % 1, y[frame, 0] / SIZE % 1, angle[frame, 0] / (2 * np.pi) % 1])
    assert all(kstest(column, "uniform").pvalue > 1e-3 for column in np.transpose(values))


def test_the_kinds_of_motion():
    start, angle = np.array([[10.0, 20.0], [5.0, 6.0]]), np.array([0.0, 1.0])

    def steps(name):
        (x, y), turned = _motion(np.random.default_rng(1), name, start, angle)
        assert x.shape == y.shape == turned.shape == (FRAMES, 2)
        assert (x[0] == start[0]).all()
        assert (y[0] == start[1]).all()
        return np.hypot(np.diff(x, axis=0), np.diff(y, axis=0)), np.diff(turned, axis=0), x

    moved = {name: steps(name) for name in CLASSES}
    assert (moved["still"][0] == 0).all()
    assert np.allclose(moved["slow"][0], moved["slow"][0][0, 0])
    assert moved["slow"][0].max() < 1.6 < 3 < moved["fast"][0].min()
    assert np.allclose(moved["swing"][2][4:], moved["swing"][2][:-4])
    assert moved["swing"][0].max() > 1
    assert (moved["turn"][0] == 0).all()
    assert [name for name in CLASSES if np.abs(moved[name][1]).min() > 0] == ["turn"]
    assert moved["jump"][0].std() > 2


def test_drawn_again_and_splits_apart(monkeypatch):
    monkeypatch.setattr(video_moving, "SPLITS", dict.fromkeys(SPLITS, 12))
    one, labels = draw_clips("train")
    again, _ = draw_clips("train")
    assert np.array_equal(one, again)
    assert np.bincount(labels).tolist() == [2] * len(CLASSES)
    apart = {c.tobytes() for split in SPLITS for c in draw_clips(split)[0]}
    assert len(apart) == 36
    with pytest.raises(UserError, match="did you mean 'test'"):
        draw_clips("tests")


def test_files_hold_what_was_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(video_moving, "SPLITS", dict.fromkeys(SPLITS, 6))
    root = ensure_moving(tmp_path / "moving")
    rows = (root / "test.csv").read_text().splitlines()
    assert rows[1] == "test/0001.mp4,1"
    for row, frames in zip(rows, draw_clips("test")[0], strict=True):
        read = decord.VideoReader(str(root / row.split(",")[0]), num_threads=1)
        assert len(read) == FRAMES
        error = np.abs(read.get_batch(range(FRAMES)).asnumpy().astype(int) - frames)
        assert error.mean() < 3
        assert error.max() < 40
    monkeypatch.setattr(video_moving, "VERSION", 0)
    with pytest.raises(UserError, match="version 0 is needed"):
        ensure_moving(root)


@pytest.mark.parametrize("recipe", ["nano_vit_video", "nano_swin_video"])
def test_adapted_image_hosts_take_time_backwards_alike(recipe):
    """Why no class is another one run backwards."""
    model = build_model(load_config(f"configs/mini/lora_{recipe}.py")).double()
    model.init_weights()
    torch.manual_seed(0)
    with torch.no_grad():
        for param in model.backbone.parameters():
            if param.requires_grad:
                param.add_(torch.randn_like(param) * 0.1)
        x = torch.randn(1, 3, 8, 32, 32, dtype=torch.float64)
        forwards, backwards = (
            model.backbone(c).flatten(2).mean(2) if "swin" in recipe else model.backbone(c) for c in (x, x.flip(2))
        )
        other = model.backbone(x[:, :, [0, 4, 1, 5, 2, 6, 3, 7]])
    other = other.flatten(2).mean(2) if "swin" in recipe else other
    assert (forwards - backwards).abs().max() < 1e-10
    assert (forwards - other).abs().max() > 1e-3
