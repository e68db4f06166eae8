"""Features of several runs side by side in the plane: t-SNE, PCA or UMAP, and how well classes separate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vpeft.core.trained.inputs import choose_samples
from vpeft.core.trained.run import class_names, open_runs
from vpeft.errors import UserError
from vpeft.extension.drawing.plots import COLOURS, MARKERS, figure, save_figure
from vpeft.extension.features import EMBEDDINGS
from vpeft.extension.features.features import Features, run_features
from vpeft.extension.features.panels import NEIGHBOURS, Panel
from vpeft.extension.features.scatter_page import scatter_page
from vpeft.files import write_atomically
from vpeft.registry import nearest

#: Parts of the cross-validation.
PARTS = 5


def embed(values: np.ndarray, how: str = "tsne", seed: int = 0, perplexity: float = 30.0) -> np.ndarray:
    """Features ``(N, C)`` in the plane, ``(N, 2)``, centred and of unit spread; the same for the same seed.

    Args:
        values: The features.
        how: ``tsne``, ``pca`` or ``umap`` (needs the package umap-learn).
        seed: Seed of t-SNE and UMAP.
        perplexity: Of t-SNE: about how many neighbours count.

    Raises:
        UserError: Unknown embedding, UMAP is not installed, or there are too few samples.
    """
    if how not in EMBEDDINGS:
        raise UserError(f"unknown embedding {how!r}: {nearest(how, EMBEDDINGS)}")
    if how == "tsne":
        from sklearn.manifold import TSNE

        if not 0 < perplexity < len(values):
            raise UserError(f"t-SNE of {len(values)} samples needs a perplexity between 0 and that, not {perplexity}.")
        made = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(values)
    elif how == "pca":
        from sklearn.decomposition import PCA

        made = PCA(2, random_state=seed).fit_transform(values)
    else:
        try:
            from umap import UMAP
        except ImportError:
            raise UserError("UMAP is not installed: pip install umap-learn, or take tsne or pca.") from None
        made = UMAP(random_state=seed).fit_transform(values)
    made = np.asarray(made, np.float64)
    made = made - made.mean(0)
    return made / max(np.sqrt((made**2).sum(1).mean()), 1e-12)


def cluster_quality(values: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, float]:
    """How well classes separate in the features.

    Returns:
        ``silhouette``: mean silhouette coefficient, -1 to 1; ``knn``: accuracy of the vote of the ten nearest
        neighbours, by five-fold cross-validation.

    Raises:
        UserError: Fewer than two classes, or too few samples.
    """
    from sklearn.metrics import silhouette_score
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    if not 1 < len(set(labels.tolist())) < len(labels) or len(labels) < 2 * NEIGHBOURS:
        raise UserError(
            f"{len(labels)} samples of {len(set(labels.tolist()))} classes: clusters need two classes or more and at "
            f"least {2 * NEIGHBOURS} samples, more than classes."
        )
    folds = KFold(PARTS, shuffle=True, random_state=seed)
    scores = cross_val_score(KNeighborsClassifier(NEIGHBOURS), values, labels, cv=folds)
    return {"silhouette": float(silhouette_score(values, labels)), "knn": float(scores.mean())}


def panels(
    folders: Sequence[str | os.PathLike[str]],
    how: str = "tsne",
    count: int | None = 1000,
    classes: Sequence[int] | None = None,
    seed: int = 0,
    perplexity: float = 30.0,
    cache: bool = True,
) -> tuple[list[Panel], list[str]]:
    """Runs' features on the same samples in the plane.

    Args:
        folders: The runs' folders; they must be tested on the same data.
        how: :func:`embed`.
        count: Random test samples, the same for all runs; all of them when None.
        classes: Show these classes alone.
        seed: Seed of the choice of samples, of the embedding and of the cross-validation.
        perplexity: Of t-SNE.
        cache: Keep the features in the runs' folders.

    Returns:
        A panel for each run, and the names of the classes.

    Raises:
        UserError: A folder is no run, or the runs are tested on different data.
    """
    runs = open_runs(folders)
    data = runs[0].dataset()
    indices = choose_samples(len(data), count, seed)
    made = []
    for run in runs:
        features = run_features(run, indices, cache)
        names = class_names(data, features.labels)
        if classes is not None:
            if unknown := sorted(set(classes) - set(range(len(names)))):
                raise UserError(
                    f"no class {unknown[0]} among the samples: they are of the classes 0 to {len(names) - 1}."
                )
            kept = np.isin(features.labels, list(classes))
            features = Features(**{name: value[kept] for name, value in vars(features).items()})
        places = embed(features.values, how, seed, perplexity)
        made.append(Panel(run.label, features, places, cluster_quality(features.values, features.labels, seed)))
    return made, names


def class_style(index: int) -> tuple[str, str]:
    """Colour and marker of a class; both change from one to the next, so that either tells seven apart."""
    return COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def draw(made: Sequence[Panel], names: Sequence[str], title: str = "") -> Figure:
    """Panels side by side at one scale; samples that a run classifies wrongly are hollow."""
    columns = min(3, len(made))
    rows = -(-len(made) // columns)
    shown = sorted(set(made[0].features.labels.tolist()))
    fig = figure(3.6 * columns + 1.3, 3.9 * rows + 0.3)
    limit = 1.05 * max(np.abs(panel.places).max() for panel in made)
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, made, strict=False):
        right = panel.features.labels == panel.features.predicted
        for label in shown:
            colour, marker = class_style(label)
            for correct in (True, False):
                chosen = (panel.features.labels == label) & (right == correct)
                ax.scatter(
                    *panel.places[chosen].T,
                    s=14,
                    marker=marker,
                    facecolors=colour if correct else "none",
                    edgecolors=colour,
                    linewidths=0.6,
                    alpha=0.8,
                )
        ax.set_title(panel.title, fontsize=9)
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    for ax in axes[len(made) :]:
        ax.set_visible(False)
    handles = [Line2D([], [], linestyle="", marker=class_style(i)[1], color=class_style(i)[0]) for i in shown]
    hollow = Line2D([], [], linestyle="", marker="o", markerfacecolor="none", color="0.3")
    fig.legend(
        [*handles, hollow],
        [*(names[i] for i in shown), "hollow: wrong"],
        loc="outside right center",
        ncols=1 + len(shown) // 24,
        title="class",
        fontsize=8,
        frameon=False,
    )
    if title:
        fig.suptitle(title, fontsize=10)
    return fig


def write_tsne(made: Sequence[Panel], names: Sequence[str], out: str | os.PathLike[str], title: str = "") -> list[Path]:
    """Write the panels as ``.png``, ``.svg`` and an interactive ``.html`` of one file.

    Args:
        made: From :func:`panels`.
        names: The classes' names.
        out: The files' common path; an ending of the three is taken off.
        title: A line above.

    Returns:
        The files.
    """
    out = Path(out)
    out = out.with_suffix("") if out.suffix in (".png", ".svg", ".html") else out
    fig = draw(made, names, title)
    files = [save_figure(fig, f"{out}{kind}", dpi=90) for kind in (".png", ".svg")]
    page = scatter_page(made, names, class_style, title)
    return [*files, write_atomically(f"{out}.html", page.encode())]
