"""Shifted versions of the embedded tasks."""

import numpy as np
import pytest

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.core.datasets.embedded.mini import MiniVTAB, mini_split
from vpeft.core.datasets.embedded.shifts import SEVERITIES, SHIFTS, parse_shift, safe_shifts, shift_images
from vpeft.core.datasets.tasks import SUITES
from vpeft.extension.interpolation.shift_sheet import draw_shifts

IMAGES = mini_split("digits", "val200")[0][:24]  # coloured, which the photos are not


def distance(shift):
    return float(np.abs(shift_images(IMAGES, shift, "digits").astype(float) - IMAGES).mean())


@pytest.mark.parametrize("kind", SHIFTS)
def test_every_shift_grows_with_its_severity(kind):
    distances = [distance(f"{kind}-{severity}") for severity in SEVERITIES]
    assert distances[0] > 0
    assert distances == sorted(distances)


def test_shifts_by_hand():
    grey = np.full((1, 8, 8, 3), 100, np.uint8)
    assert shift_images(grey, "invert-5").tolist() == np.full((1, 8, 8, 3), 155).tolist()
    assert shift_images(grey, "invert-1").tolist() == np.full((1, 8, 8, 3), 111).tolist()
    for shift in ("blur-3", "contrast-5", "pixelate-3", "rotate-5", "colour-5"):
        assert np.array_equal(shift_images(grey, shift), grey)  # nothing to blur, mix or turn
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3) * 2
    low = shift_images(pixels, "contrast-5")[0].astype(float)
    np.testing.assert_allclose(low, pixels[0].mean((0, 1)) + 0.1 * (pixels[0] - pixels[0].mean((0, 1))), atol=0.5)
    assert set(np.unique(shift_images(grey, "brightness-2"))) <= {49, 151}
    noisy = shift_images(np.full((1, 200, 200, 3), 128, np.uint8), "noise-2").astype(float)
    assert noisy.std() == pytest.approx(24, rel=0.02)
    square = np.zeros((1, 16, 16, 3), np.uint8)
    square[:, :8] = 200
    assert np.array_equal(shift_images(square, "pixelate-5"), square)  # 8 x 8 squares of two pixels


def test_a_shift_is_the_same_every_time_and_differs_by_split_and_seed():
    first = shift_images(IMAGES, "noise-3", "digits")
    assert np.array_equal(first, shift_images(IMAGES, "noise-3", "digits"))
    assert not np.array_equal(first, shift_images(IMAGES, "noise-3", "digits", seed=1))
    assert not np.array_equal(first, shift_images(IMAGES, "noise-3", "digits", split="val200"))
    assert first.dtype == np.uint8
    assert first.shape == IMAGES.shape


def test_mixed_gives_images_kinds_of_their_own():
    mixed = shift_images(np.full((40, 8, 8, 3), 100, np.uint8), "mixed-5")
    assert len({image.tobytes() for image in mixed}) > 3


def test_labels_are_kept():
    assert "rotate" not in safe_shifts("sprite_location")
    assert all(len(safe_shifts(task)) >= 7 for task in SUITES["mini"])
    plain = MiniVTAB("digits", "test")
    shifted = MiniVTAB("digits", "test", shift="mixed-3")
    labels = [[data.get_data_info(i)["gt_label"] for i in range(len(data))] for data in (plain, shifted)]
    assert labels[0] == labels[1]
    assert not np.array_equal(plain.get_data_info(0)["img"], shifted.get_data_info(0)["img"])


def test_in_a_config():
    cfg = load_config("configs/mini/lora_nano_vit.py", "digits", {"shift": "blur-2"})
    assert cfg.test_dataloader.dataset.shift == "blur-2"
    assert "shift" not in cfg.train_dataloader.dataset
    assert "shift" not in load_config("configs/mini/lora_nano_vit.py").test_dataloader.dataset
    assert cfg.data_variant == "embedded, blur-2"


@pytest.mark.parametrize(
    ("shift", "task", "message"),
    [
        ("nois-3", "digits", "did you mean 'noise'"),
        ("noise", "digits", "did you mean 'noise'"),
        ("noise-6", "digits", "from 1 to 5"),
        ("rotate-2", "sprite_orientation", "would change the label"),
    ],
)
def test_wrong_shifts(shift, task, message):
    with pytest.raises(vpeft.UserError, match=message):
        parse_shift(shift, task)
    with pytest.raises(vpeft.UserError, match=message):
        MiniVTAB(task, "test", shift=shift)


def test_no_shift_of_real_data():
    with pytest.raises(vpeft.UserError, match="only the embedded tasks"):
        load_config("configs/vtab/lora_vit.py", "dtd", {"shift": "noise-3"})


def test_a_picture_of_the_shifts(tmp_path):
    path = draw_shifts("sprite_location", tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(vpeft.UserError, match="unknown task"):
        draw_shifts("digit", tmp_path / "a.png")
