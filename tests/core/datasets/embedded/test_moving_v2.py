"""Moving shapes, second version: frames differ as much whatever the class."""

import numpy as np
import pytest

from vpeft.core.datasets.embedded.moving_shapes import FRAMES, SIZE, SPLITS
from vpeft.core.datasets.embedded.second.moving_v2 import (
    CLASSES_V2,
    KINDS_V2,
    MOTIONS_V2,
    STEP,
    clip_v2,
    draw_clips_v2,
    even_motion,
)


@pytest.mark.parametrize("name", MOTIONS_V2)
def test_every_step_is_as_long(name):
    start, angle = np.array([[10.0, 20.0], [5.0, 6.0]]), np.array([0.0, 1.0])
    for seed in range(20):
        (x, y), turned = even_motion(name, np.random.default_rng(seed), start, angle)
        assert x.shape == y.shape == turned.shape == (FRAMES, 2)
        assert (turned == angle).all()
        assert np.allclose([x[0], y[0]], start)
        steps = np.hypot(np.diff(x, axis=0), np.diff(y, axis=0))
        assert np.allclose(steps, steps[0, 0])
        assert STEP[0] <= steps[0, 0] <= STEP[1]


def test_the_motions_differ():
    def far(name):
        start = np.zeros((2, 1))
        found = [even_motion(name, np.random.default_rng(seed), start, np.zeros(1))[0] for seed in range(50)]
        return [np.hypot(x, y).max() for x, y in found]

    straight, to_and_fro, circle = map(far, MOTIONS_V2)
    assert min(straight) > 20 > 8.1 > max(to_and_fro)
    assert 4 < min(circle) <= max(circle) < 7.3


def test_frames_differ_as_much_whatever_the_class():
    """The mean difference from a frame to the next, of each motion, with the same shapes at the same places."""

    def change(label):
        clips = np.stack([clip_v2(np.random.default_rng(seed), label).astype(float) for seed in range(60)])
        return np.abs(np.diff(clips.mean(-1), axis=1)).mean((0, 2, 3))

    motions = np.stack([change(label) for label in range(3)])
    assert np.ptp(motions.mean(1)) < 0.03 * motions.mean()


def test_a_clip_is_of_its_label_and_splits_are_apart(monkeypatch):
    monkeypatch.setitem(SPLITS, "test", 18)
    clips, labels = draw_clips_v2("test")
    assert labels == [*range(9)] * 2
    assert len({clip.tobytes() for clip in clips}) == 18
    assert clips[0].shape == (FRAMES, SIZE, SIZE, 3)
    assert CLASSES_V2[4] == f"{KINDS_V2[1]}, {MOTIONS_V2[1]}"
