"""What a new user does, each word in a process of its own and outside the repository: train, predict, export, serve."""

import csv
import io
import json
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from support import own
from support.user import asked, server, vpeft

pytestmark = pytest.mark.slow

WARM = {"red": "warm", "blue": "cold"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with photos of three classes, and with another of two classes that have other names."""
    folder = tmp_path_factory.mktemp("home")
    own.mixed_folder(folder / "photos")
    own.class_folder(folder / "weather", colours=tuple(WARM))
    for colour, name in WARM.items():
        (folder / "weather" / colour).rename(folder / "weather" / name)
    return folder


@pytest.fixture(scope="module")
def photos(home):
    """The run of the mixed folder, and what the command said."""
    out, _ = vpeft(home, "train", "photos", "--epochs", 12)
    return home / "work_dirs/photos_lora_nano_vit", out


@pytest.fixture(scope="module")
def weather(home):
    vpeft(home, "train", "weather", "--epochs", 12, "--work-dir", "weather_run")
    return home / "weather_run"


def test_a_folder_of_mixed_images_gives_a_run(photos):
    run, out = photos
    assert "59 images (train 47, val 12), 3 classes" in out
    assert "52 RGB, 4 grey, 1 with alpha, 1 16 bits, 1 palette, 1 turned by EXIF" in out
    assert re.search(r"cannot be read: \S*photos/green/photo 3\.jpg \(truncated", out)
    result = json.loads((run / "result.json").read_text())
    assert result["main_metric"]["name"] == "accuracy/top1"
    assert result["main_metric"]["value"] > 0.6
    assert (run / "adapter_best.safetensors").is_file()


def test_predict_names_the_classes_and_the_broken_image(home, photos):
    run, _ = photos
    out, err = vpeft(home, "predict", run, "photos", "--csv", "-", "--top", 1, status=1)
    best = {row["file"]: row["class"] for row in csv.DictReader(io.StringIO(out))}
    assert len(best) == 59
    assert set(best.values()) <= set(own.COLOURS)
    right = sum(Path(file).parent.name == label for file, label in best.items())
    assert right / len(best) > 0.6
    (failed,) = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert "photos/green/photo 3.jpg" in failed


def test_the_onnx_file_is_checked_and_tells_the_classes(home, photos):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    run, _ = photos
    out, _ = vpeft(home, "export", run, "--to", "onnx", "--out", "photos.onnx")
    (difference,) = re.findall(r"^onnxruntime differs by (\S+) ", out, flags=re.MULTILINE)
    assert float(difference) < 1e-4
    session = onnxruntime.InferenceSession(home / "photos.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == sorted(own.COLOURS)
    (scores,) = session.run(None, {"images": np.zeros((3, 3, 32, 32), np.float32)})
    assert scores.shape == (3, 3)


def test_two_adapters_answer_from_one_base(home, photos, weather):
    for package in ("fastapi", "uvicorn", "python_multipart"):
        pytest.importorskip(package)
    red, blue = (
        [home / "photos" / colour / f"photo {number}.jpg" for number in range(10, 16)] for colour in ("red", "blue")
    )
    with server(home, f"photos={photos[0]}", weather) as address:
        adapters = json.loads(urllib.request.urlopen(f"{address}/adapters", timeout=60).read())
        first = asked(address, "photos", *red, *blue)
        second = asked(address, "weather_run", *red, *blue)
        again = asked(address, "photos", *red, *blue)
    log = (home / "serve.log").read_text()
    assert log.count("base: ") == 1
    assert "Traceback" not in log
    assert json.dumps(adapters).count("weather_run")
    assert set(first) <= set(own.COLOURS)
    assert set(second) <= set(WARM.values())
    assert first == again
    assert sum(a == b for a, b in zip(second, ["warm"] * 6 + ["cold"] * 6, strict=True)) >= 9
