"""Prediction analysis, on cases worked by hand."""

import json
import math

import numpy as np
import pytest
import torch

import vpeft
from vpeft.core.trained.logits import Logits, read_logits, write_logits
from vpeft.extension.agreement.ensembles import ensemble_report, logit_average, majority, oracle_accuracy
from vpeft.extension.agreement.report import agreement_summary, read_runs, write_report
from vpeft.extension.agreement.similarity import (
    agreement,
    check_same_data,
    error_overlap,
    most_confident,
    regions,
    shared,
)
from vpeft.extension.drawing.plots import COLOURS, SCALE, figure, heat_map, save_figure

LABELS = [0, 1, 2, 0]


def run(name, classes, confidence=None, labels=LABELS, data=None):
    """Predictions of these classes, each with the logit ``confidence`` against zeros."""
    confidence = confidence or [1.0] * len(classes)
    logits = torch.zeros(len(classes), 3)
    for i, (c, value) in enumerate(zip(classes, confidence, strict=True)):
        logits[i, c] = value
    samples = [str(i) for i in range(len(labels))]
    return Logits(logits, torch.tensor(labels), samples, data or {"task": "digits"}, name)


A = run("A", [0, 1, 2, 1], [3, 1, 2, 4])  # wrong: 3
B = run("B", [0, 2, 2, 1], [1, 5, 3, 2])  # wrong: 1, 3
C = run("C", [2, 1, 2, 0], [2, 2, 2, 1])  # wrong: 0


def test_matrices():
    assert agreement([A, B, C]).tolist() == [[1, 0.75, 0.5], [0.75, 1, 0.25], [0.5, 0.25, 1]]
    assert error_overlap([A, B, C]).tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    perfect = run("P", LABELS)
    assert error_overlap([perfect, perfect]).tolist() == [[1, 1], [1, 1]]


def test_most_confident():
    assert most_confident(A, 2, correct=True) == [0, 2]
    assert most_confident(B, 2, correct=True) == [2, 0]
    assert most_confident(B, 5, correct=False) == [1, 3]  # as many as there are
    assert most_confident(run("T", [0, 1, 2, 0]), 3, correct=True) == [0, 1, 2]  # ties in order
    with pytest.raises(vpeft.UserError, match="k=0"):
        most_confident(A, 0, correct=True)


def test_venn_counts():
    sets = {"a": {1, 2, 3, 4}, "b": {3, 4, 5}, "c": {4, 5, 6, 7}}
    assert regions(sets) == {("a",): 2, ("a", "b"): 1, ("a", "b", "c"): 1, ("b", "c"): 1, ("c",): 2}
    assert shared(sets) == pytest.approx((2 / 5 + 1 / 7 + 2 / 5) / 3)
    assert shared({"a": set(), "b": set()}) == 1


def test_confidence_is_the_probability():
    assert A.confidence[0] == pytest.approx(math.exp(3) / (math.exp(3) + 2))
    assert A.accuracy == 75


def test_oracle_and_ensembles():
    assert oracle_accuracy([A, B]) == 75
    assert oracle_accuracy([A, B, C]) == 100
    # Sums of the scores: sample 0: 4 for class 0, 2 for class 2; sample 1: 3 for class 1, 5 for class 2; ...
    assert logit_average([A, B, C]).tolist() == [0, 2, 2, 1]
    # Two of three: 0, 1, 2, 1.
    assert majority([A, B, C]).tolist() == [0, 1, 2, 1]
    report = ensemble_report([A, B, C])
    assert report["members"] == {"A": 75, "B": 50, "C": 75}
    assert report["best"] == "A"
    assert report["ensembles"]["logit average"] == {"accuracy": 50, "gain": -25}
    assert report["ensembles"]["majority"] == {"accuracy": 75, "gain": 0}


def test_ties_of_votes_go_to_the_surer_class():
    assert majority([run("x", [0, 0, 0, 0], [1, 3, 1, 1]), run("y", [1, 1, 1, 1], [2, 2, 2, 2])]).tolist() == [
        1,
        0,
        1,
        1,
    ]


def test_an_ensemble_does_not_mind_a_constant_per_sample():
    shifted = Logits(A.logits + torch.tensor([[100.0], [0], [-50], [7]]), A.labels, A.samples, A.data, "A")
    assert logit_average([shifted, B]).equal(logit_average([A, B]))


def test_files(tmp_path):
    write_logits(A, tmp_path / "logits.safetensors")
    again = read_logits(tmp_path)
    assert again.logits.equal(A.logits)
    assert (again.labels.tolist(), again.samples, again.data, again.name) == (LABELS, A.samples, A.data, "A")
    data = (tmp_path / "logits.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(vpeft.UserError, match="truncated"):
        read_logits(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run("B", LABELS, data={"task": "photos"}), "task is 'digits' and 'photos'"),
        (run("B", LABELS, data={"task": "digits", "shift": "noise-3"}), "shift is None and 'noise-3'"),
        (run("B", LABELS, labels=[0, 1, 2, 2]), "different samples or labels"),
        (Logits(torch.zeros(4, 5), A.labels, A.samples, A.data, "B"), "3 classes and B 5"),
    ],
)
def test_other_data_is_refused(other, message):
    with pytest.raises(vpeft.UserError, match=message):
        check_same_data([A, other])


def test_wrong_use(tmp_path):
    with pytest.raises(vpeft.UserError, match=r"no stored logits.*--dump-logits"):
        read_runs([tmp_path, tmp_path / "b"])
    with pytest.raises(vpeft.UserError, match="given twice"):
        read_runs([tmp_path, tmp_path])
    with pytest.raises(vpeft.UserError, match="two runs or more"):
        check_same_data([A])
    bad = Logits(A.logits * math.nan, A.labels, A.samples, A.data, "A")
    write_logits(bad, tmp_path / "logits.safetensors")
    with pytest.raises(vpeft.UserError, match="NaN"):
        read_logits(tmp_path)
    with pytest.raises(vpeft.UserError, match=r"\.png or \.svg"):
        save_figure(None, tmp_path / "a.jpg")


@pytest.mark.parametrize("count", [2, 3, 8])
def test_report(tmp_path, count):
    runs = []
    for i in range(count):
        folder = tmp_path / f"run{i}"
        classes = np.random.default_rng(i).integers(3, size=60)
        labels = [n % 3 for n in range(60)]
        write_logits(run("LoRA", classes, list(range(1, 61)), labels), folder / "logits.safetensors")
        runs.append(folder)
    read = read_runs(runs)
    assert [r.name for r in read] == [f"run{i}" for i in range(count)]  # one method: told apart by folder
    report = write_report(read, tmp_path / "out", k=5)
    again = json.loads((tmp_path / "out" / "similarity.json").read_text())
    assert again["members"] == report["members"]
    wrong = again["confident"]["wrong"]
    assert sum(wrong["regions"].values()) == len(set().union(*map(set, wrong["samples"].values())))
    assert {f.name for f in (tmp_path / "out").iterdir()} >= {"similarity.png", "overlap.png", "ensembles.png"}
    assert "oracle of all" in agreement_summary(report)
    assert len(set(COLOURS)) == 7


def test_a_heat_map_says_what_it_shows_in_texts_that_can_be_read():
    fig = figure(3, 3)
    ax = fig.subplots()
    heat_map(ax, np.array([[0.1, 0.9], [0.6, np.nan]]), ["a", "b"], ["c", "d"], "{:.1f}", label="share (1: all)")
    assert ax.images[0].get_cmap().name == SCALE
    assert fig.axes[1].get_ylabel() == "share (1: all)"
    colours = {text.get_text(): text.get_color() for text in ax.texts}
    assert colours == {"0.1": "white", "0.9": "black", "0.6": "black"}  # by how bright the cell is
