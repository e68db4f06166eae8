"""What is reached without a pretrained host."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from support.results import result, store

from vpeft import UserError
from vpeft.apis.baselines import stored
from vpeft.apis.baselines.features import frame_differences, mean_colour, random_filters, raw_pixels
from vpeft.apis.baselines.measure import TaskList, _read, baselines, classified, host_features, task_parts
from vpeft.apis.baselines.stored import measure_baselines, read_baselines
from vpeft.apis.config.load import load_config
from vpeft.apis.leaderboard.boards import boards
from vpeft.apis.leaderboard.without_host import overtaken, without_host
from vpeft.apis.leaderboard.write import write_leaderboard
from vpeft.apis.results.files import read_results
from vpeft.registry import DATASETS

CONFIG = str(Path(__file__).parents[3] / "configs/mini/linear_nano_vit.py")


def images(count=6, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def test_features_by_hand():
    x = images()
    np.testing.assert_allclose(mean_colour(x), x.mean((2, 3)))
    np.testing.assert_array_equal(raw_pixels(x), x.reshape(6, -1))
    large = np.kron(x, np.ones((1, 1, 2, 2), np.uint8))
    np.testing.assert_allclose(raw_pixels(large), x.reshape(6, -1), rtol=1e-6)
    assert (random_filters(x).shape, random_filters(x, 4).shape) == ((6, 64), (6, 1024))
    np.testing.assert_allclose(random_filters(x, 4).reshape(6, 64, 16).mean(2), random_filters(x), rtol=1e-5)
    clips = np.stack([x, x, x + 3], 2)
    differences = frame_differences(clips).reshape(6, 2, 64)
    assert not differences[:, 0].any()
    assert (differences[:, 1] > 0).all()
    np.testing.assert_array_equal(raw_pixels(clips), raw_pixels(x))


def test_a_classifier_of_more_features_than_images_is_the_plain_one():
    """Turning features onto the images' axes changes nothing; the validation images alone choose the strength."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    x = rng.normal(size=(90, 200)) + labels[:, None] * (np.arange(200) < 12)
    parts = {
        "tune": (x[:40], labels[:40]),
        "val": (x[40:60], labels[40:60]),
        "final": (x[:60], labels[:60]),
        "test": (x[60:], labels[60:]),
    }
    plain = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300)) for c in (1e-4, 1e-3, 1e-2, 0.1, 1.0)
    ]
    looks = [one.fit(*parts["tune"]).score(*parts["val"]) for one in plain]
    best = plain[int(np.argmax(looks))]
    assert classified(parts) == best.fit(*parts["final"]).score(*parts["test"])


@pytest.fixture(scope="module")
def parts():
    return task_parts(CONFIG, "digits")


def test_the_lists_are_those_of_the_suite(parts):
    assert {use: len(part.labels) for use, part in parts.items()} == {
        "tune": 800,
        "val": 200,
        "final": 1000,
        "test": 797,
    }
    assert parts["test"].images.shape == (797, 3, 32, 32)
    assert parts["test"].images.dtype == np.uint8


def test_the_host_has_random_weights(parts):
    few = parts["test"].images[:5]
    one, other = (host_features(CONFIG, "digits", pretrained=False)(few) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.shape == (5, 64)
    assert one.std() > 0.1
    assert np.abs(one - host_features(CONFIG, "digits", pretrained=True)(few)).max() > 0.1


def test_every_baseline_of_a_task(monkeypatch, parts):
    """On a fifth of the digits, which are told from their pixels."""
    few = {use: TaskList(part.images[::5], part.labels[::5]) for use, part in parts.items()}
    monkeypatch.setattr("vpeft.apis.baselines.measure.task_parts", lambda config, task: few)
    found = baselines(CONFIG, "digits")
    most = np.bincount(few["final"].labels).argmax()
    assert found["chance"] == (few["test"].labels == most).mean()
    assert found["raw pixels"] > 0.8
    assert found["mean colour"] < 0.3
    assert 0.1 < found["the host with random weights"] < 0.7
    assert list(found)[1:4] == ["mean colour", "raw pixels", "random filters"]


def test_clips_are_read_with_their_labels():
    """mmaction's samples hold a label by another name than mmpretrain's."""
    pytest.importorskip("mmaction")
    config = str(Path(CONFIG).parents[1] / "mini/linear_nano_vit_video.py")
    cfg = load_config(config)
    settings = {**cfg.test_dataloader.dataset, "indices": 5}
    with DefaultScope.overwrite_default_scope("mmaction"):
        labels = [DATASETS.build(settings).get_data_info(index)["label"] for index in range(5)]
        read = _read(settings)
    assert read.images.shape[:3] == (5, 3, 8)
    assert read.labels.tolist() == labels
    assert host_features(config, None, pretrained=False)(read.images).shape == (5, 64)


def test_other_tasks_than_classes_are_refused():
    with pytest.raises(UserError, match="baselines are of classification and clips"):
        baselines(str(Path(CONFIG).parents[1] / "mini/linear_nano_swin_segmentation.py"), None)


def test_they_stand_beside_results_and_say_what_a_task_asks_for(tmp_path, monkeypatch):
    values = {"digits": {"chance": 0.1, "raw pixels": 0.9}, "tissue": {"chance": 0.25, "raw pixels": 0.3}}
    monkeypatch.setattr(stored, "baselines", lambda config, task: values[task])
    monkeypatch.setattr(stored, "frozen_host", lambda config, task: 0.5)
    store(tmp_path, *(result("Linear", task, 0, 0.5) for task in values), *(result("LoRA", t, 0, 0.8) for t in values))
    (before,) = boards(read_results(tmp_path))
    assert without_host(before, tmp_path) == []
    measure_baselines(CONFIG, ["digits"], str(tmp_path))
    measure_baselines(CONFIG, ["tissue", "digits"], str(tmp_path))
    assert [one["task"] for one in read_baselines(tmp_path)] == ["tissue", "digits"]
    found = dict(without_host(before, tmp_path))
    assert found == {"chance": {"digits": 0.1, "tissue": 0.25}, "raw pixels": {"digits": 0.9, "tissue": 0.3}}
    (note,) = overtaken(before, list(found.items()))
    assert note.endswith("above the frozen host's probe: digits (probe 50.0, raw pixels 90.0).")
    page, text, *_ = write_leaderboard(read_results(tmp_path), None, [])
    assert "| raw pixels | 90.0 | 30.0 | 60.0 |" in text.read_text()
    assert note in text.read_text()
    assert '"without":' in page.read_text()


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"baselines": [1]}', '{"baselines": [{"suite": "a"}]}'],
    ids=["cut", "list", "number", "lacking"],
)
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / stored.FILE).write_text(content)
    with pytest.raises(UserError, match="delete it, and measure them again"):
        read_baselines(tmp_path)


def test_values_outside_of_shares_are_refused(tmp_path):
    one = {"suite": "mini", "task": "digits", "data_variant": "embedded", "values": {"chance": 7.0}}
    (tmp_path / stored.FILE).write_text(json.dumps({"baselines": [one]}))
    with pytest.raises(UserError, match="holds no baselines"):
        read_baselines(tmp_path)


def test_unknown_tasks_suggest_the_nearest(tmp_path):
    with pytest.raises(UserError, match="unknown task 'digit' of suite 'mini': did you mean 'digits'"):
        measure_baselines(CONFIG, ["digit"], str(tmp_path))
