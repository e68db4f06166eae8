"""What t-SNE and its numbers are told of: the seed, the true classes, the very samples."""

from types import SimpleNamespace

import numpy as np
import pytest

from vpeft.extension.features import features as kept
from vpeft.extension.features import tsne
from vpeft.extension.features.features import Features, run_features


def features(seed=0, samples=60):
    """Three classes apart; what is predicted has nothing to do with them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % 3
    values = (rng.normal(size=(samples, 6)) + 6 * np.eye(6)[labels]).astype(np.float32)
    predicted = rng.permutation(labels)
    return Features(values, labels, predicted, np.arange(samples), np.zeros((samples, 2, 2, 3), np.uint8))


@pytest.fixture
def run(monkeypatch):
    one = SimpleNamespace(label="a run", dataset=lambda: list(range(60)))
    monkeypatch.setattr(tsne, "open_runs", lambda folders: [one])
    monkeypatch.setattr(tsne, "run_features", lambda run, indices, cache: features())
    monkeypatch.setattr(tsne, "class_names", lambda data, labels: ["a", "b", "c"])


def test_clusters_are_of_the_true_classes(run):
    (panel,), _ = tsne.panels(["folder"], "pca", count=None)
    by_labels = tsne.cluster_quality(panel.features.values, panel.features.labels)
    by_predictions = tsne.cluster_quality(panel.features.values, panel.features.predicted)
    assert panel.quality == by_labels
    assert by_labels["silhouette"] > by_predictions["silhouette"] + 0.3
    assert by_labels["knn"] == 1.0 > by_predictions["knn"]


def test_tsne_is_given_the_seed(monkeypatch):
    """From PCA's axes it draws numbers for large data alone, so what it is told is looked at."""
    import sklearn.manifold

    told = []

    class Told(sklearn.manifold.TSNE):
        def __init__(self, **settings):
            told.append(settings)
            super().__init__(**settings)

    monkeypatch.setattr(sklearn.manifold, "TSNE", Told)
    tsne.embed(features().values, perplexity=10, seed=7)
    assert told == [{"perplexity": 10, "init": "pca", "random_state": 7}]


def test_the_folds_are_shuffled_by_the_seed():
    """Sorted by class, folds in order would each hold a class that the others lack."""
    labels = np.repeat(np.arange(tsne.PARTS), 20)
    values = np.random.default_rng(0).normal(size=(len(labels), 6)) + 9 * np.eye(6)[labels]
    for seed in range(3):
        assert tsne.cluster_quality(values, labels, seed)["knn"] == 1.0


def test_what_is_wrong_is_hollow():
    places = np.random.default_rng(0).normal(size=(60, 2))
    panel = tsne.Panel("a run", features(), places, {"silhouette": 0.5, "knn": 0.9})
    (ax, *_) = tsne.draw([panel], ["a", "b", "c"]).axes
    full = sum(len(one.get_offsets()) for one in ax.collections if len(one.get_facecolors()))
    assert full == (panel.features.labels == panel.features.predicted).sum() != 30
    assert sum(len(one.get_offsets()) for one in ax.collections) == 60


def test_features_that_are_kept_are_of_their_own_samples(tmp_path, monkeypatch):
    made = []
    run = SimpleNamespace(folder=tmp_path, digest=lambda: "a run")
    monkeypatch.setattr(kept, "_compute", lambda run, indices: made.append(list(indices)) or features(len(made)))
    first, second, again = (run_features(run, indices) for indices in ([0, 1], [2, 3], [0, 1]))
    assert made == [[0, 1], [2, 3]]
    assert (first.values == again.values).all()
    assert (first.values != second.values).any()
