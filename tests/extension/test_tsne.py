"""Features are what the head reads; the plane, its numbers and its files."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import write_run

import vpeft
from vpeft.core.trained.inputs import choose_samples
from vpeft.core.trained.run import Run, open_run
from vpeft.extension.features import tsne
from vpeft.extension.features.features import pooled, run_features

TOOL = Path(__file__).parents[2] / "tools/visualization/tsne.py"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [write_run(root / name, f"{name}_nano_vit", samples=60) for name in ("lora", "vptdeep")]


def direct(run, indices):
    """Features and predictions by the model's own functions, image by image."""
    model, data = run.model(), run.dataset()
    values, predicted = [], []
    for i in indices:
        batch = model.data_preprocessor({"inputs": [data[i]["inputs"]], "data_samples": [data[i]["data_samples"]]})
        with torch.no_grad():
            values.append(model.extract_feat(batch["inputs"])[-1][0])
            predicted.append(int(model(batch["inputs"], mode="tensor").argmax()))
    return torch.stack(values).numpy(), predicted


@pytest.mark.parametrize("number", [0, 1])
def test_features_are_what_the_head_reads(folders, number):
    run = open_run(folders[number])
    indices = [4, 17, 2]
    features = run_features(run, indices, cache=False)
    values, predicted = direct(run, indices)
    np.testing.assert_allclose(features.values, values, rtol=1e-5, atol=1e-6)
    assert features.predicted.tolist() == predicted
    assert features.labels.tolist() == [int(run.dataset()[i]["data_samples"].gt_label) for i in indices]
    # What was seen, before it was normalised: the data set reads BGR.
    assert (features.images[0] == run.dataset().get_data_info(4)["img"][..., ::-1]).all()


def test_swin_features_are_the_mean_of_the_map(tmp_path):
    run = open_run(write_run(tmp_path / "swin", "lora_nano_swin", samples=4))
    features = run_features(run, [1, 3], cache=False)
    values, predicted = direct(run, [1, 3])
    np.testing.assert_allclose(features.values, values, rtol=1e-4, atol=1e-5)
    assert features.predicted.tolist() == predicted


def test_outputs_are_pooled_by_what_they_are():
    class Host:
        prefix, pools_map, blocks = 1, False, [type("Block", (), {"dim": 5})]

    x = torch.randn(2, 5)
    assert pooled(Host, (x,)) is x
    stream = torch.randn(2, 7, 5)
    assert torch.equal(pooled(Host, stream), stream[:, 0])
    maps = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(pooled(Host, [maps]), maps.mean((2, 3)))
    torch.testing.assert_close(pooled(Host, maps.movedim(1, -1)), maps.mean((2, 3)))
    Host.prefix = 0
    torch.testing.assert_close(pooled(Host, stream), stream.mean(1))


def test_features_are_kept_by_content(folders, monkeypatch):
    run = open_run(folders[0])
    made = run_features(run, [0, 1])
    (file,) = (folders[0] / "features").glob("*.npz")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "model", lambda *args: pytest.fail("computed again"))
        again = run_features(open_run(folders[0]), [0, 1])
    assert all((value == vars(again)[name]).all() for name, value in vars(made).items())
    file.write_bytes(file.read_bytes()[:100])
    assert (run_features(run, [0, 1]).values == made.values).all()  # a broken file is made anew
    run.cfg.model.head.loss.loss_weight = 2.0
    run_features(run, [0, 1])
    assert len(list((folders[0] / "features").glob("*.npz"))) == 2


def test_the_plane():
    line = np.outer([-3.0, -1.0, 1.0, 3.0], [0.6, 0.8, 0.0])
    places = tsne.embed(line, "pca")
    # Along the line alone, of unit spread: sqrt((9 + 1 + 1 + 9) / 4) is sqrt 5.
    np.testing.assert_allclose(np.sort(places[:, 0]), np.array([-3, -1, 1, 3]) / np.sqrt(5), atol=1e-12)
    np.testing.assert_allclose(places[:, 1], 0, atol=1e-12)
    points = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    one, two = (tsne.embed(points, perplexity=5) for _ in range(2))
    assert (one == two).all()
    assert np.sqrt((one**2).sum(1).mean()) == pytest.approx(1)
    with pytest.raises(vpeft.UserError, match="t-SNE of 4 samples needs a perplexity between 0 and that, not 30"):
        tsne.embed(line)
    with pytest.raises(vpeft.UserError, match="unknown embedding 'tsna': did you mean 'tsne'"):
        tsne.embed(line, "tsna")


def test_umap_is_an_option(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(vpeft.UserError, match="UMAP is not installed: pip install umap-learn"):
        tsne.embed(np.eye(5), "umap")


def test_quality_by_hand():
    # Two classes on a line, 1 apart inside and 10 between their neighbours.
    values = np.array([[0.0], [1.0]] * 15 + [[10.0], [11.0]] * 15)
    labels = np.repeat([0, 1], 30)
    quality = tsne.cluster_quality(values, labels)
    # a = 15 / 29 for all; b = 10.5 for 0 and 11, 9.5 for 1 and 10.
    expected = np.mean([1 - (15 / 29) / b for b in (10.5, 9.5)])
    assert quality == {"silhouette": pytest.approx(expected), "knn": 1.0}
    with pytest.raises(vpeft.UserError, match="60 samples of 1 classes"):
        tsne.cluster_quality(values, np.zeros(60, int))


def test_samples_are_chosen_once_for_all():
    assert choose_samples(10, None).tolist() == list(range(10))
    assert choose_samples(100, 5, seed=1).tolist() == choose_samples(100, 5, seed=1).tolist()
    assert choose_samples(100, 5, seed=1).tolist() != choose_samples(100, 5, seed=2).tolist()
    with pytest.raises(vpeft.UserError, match="0 samples were asked for"):
        choose_samples(10, 0)


def test_classes_differ_in_colour_or_marker():
    styles = [tsne.class_style(i) for i in range(49)]
    assert len(set(styles)) == 49
    assert len({marker for _, marker in styles[:7]}) == len({colour for colour, _ in styles[:7]}) == 7


def test_the_tool(folders, tmp_path, monkeypatch, capsys):
    arguments = [*map(str, folders), "--method", "pca", "--count", "50", "--out", str(tmp_path / "p.png")]
    monkeypatch.setattr(sys, "argv", ["tsne.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert end.value.code == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("LoRA: silhouette")
    assert out[-3:] == [str(tmp_path / f"p.{kind}") for kind in ("png", "svg", "html")]
    page = (tmp_path / "p.html").read_text()
    assert page.count('"places":[') == 2
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")  # one file, nothing fetched
    assert "data:image/jpeg;base64," in page


def test_panels_show_the_same_samples_at_one_scale(folders):
    made, names = tsne.panels(folders, "pca", count=40)
    assert (made[0].features.labels == made[1].features.labels).all()
    assert (made[0].features.indices == made[1].features.indices).all()
    fig = tsne.draw(made, names, "two runs")
    first, second = fig.axes
    assert first.get_xlim() == second.get_xlim() == first.get_ylim()
    assert first.get_title().startswith("LoRA\nsilhouette")
    count = sum(len(points.get_offsets()) for points in first.collections)
    assert count == 40
    (legend,) = fig.legends
    shown = sorted(set(made[0].features.labels.tolist()))
    assert [text.get_text() for text in legend.get_texts()] == [*(names[i] for i in shown), "hollow: wrong"]
    some, _ = tsne.panels(folders, "pca", count=None, classes=[1, 2, 3, 4])
    assert set(some[0].features.labels) == {1, 2, 3, 4}
    with pytest.raises(vpeft.UserError, match="no class 11 among the samples"):
        tsne.panels(folders, "pca", classes=[1, 11])
