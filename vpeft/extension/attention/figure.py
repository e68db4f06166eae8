"""Pictures of what runs look at: one grid of the input, and of every run's map and prediction."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmengine.device import get_device

from vpeft.core.trained.inputs import Look, dataset_looks, file_looks
from vpeft.core.trained.run import open_runs
from vpeft.errors import UserError
from vpeft.extension.attention import KINDS
from vpeft.extension.attention.maps import Map, default_kinds, look
from vpeft.extension.drawing.grids import Grid, GridCell, draw_grid
from vpeft.extension.drawing.plots import save_figure

#: Colours of texts on right and wrong predictions; a mark says it too.
RIGHT, WRONG = "#0072B2", "#D55E00"


def looked_at(
    folders: Sequence[str | os.PathLike[str]],
    kinds: Sequence[str] | None = None,
    images: Sequence[str | os.PathLike[str]] | None = None,
    indices: Sequence[int] | None = None,
    count: int = 4,
    seed: int = 0,
    **options,
) -> dict[str, list[tuple[Look, dict[str, Map]]]]:
    """Maps of several runs on the same samples.

    Args:
        folders: The runs' folders; tested on the same data where test samples are looked at.
        kinds: :data:`~vpeft.extension.attention.KINDS`; those that suit the first run's host when None.
        images: Files to look at.
        indices: Test samples to look at, by place; random ones where neither they nor ``images`` are given.
        count: How many random ones.
        seed: Seed of the choice.
        **options: Of :func:`~vpeft.extension.attention.maps.look`.

    Returns:
        By kind: for every sample, the runs' maps by label.

    Raises:
        UserError: A folder is no run, runs are of different data, an image is missing, a host lacks such a map, or an
            option is of a kind that is not among them.
    """
    runs = open_runs(folders)
    looks = {run.label: file_looks(run, images) if images else dataset_looks(run, indices, count, seed) for run in runs}
    found: dict[str, list[tuple[Look, dict[str, Map]]]] = {}
    for run in runs:
        model = run.model(get_device())
        kinds = kinds or default_kinds(model)
        for flag, value, own in (
            ("--token", options.get("place"), "token"),
            ("--target", options.get("target"), "gradcam"),
        ):
            if value is not None and own not in kinds:
                raise UserError(
                    f"{flag} is of --kinds {own}, and the kinds here are {', '.join(kinds)}: name it too, or leave the "
                    "option out."
                )
        for kind in kinds:
            rows = found.setdefault(kind, [(sample, {}) for sample in looks[run.label]])
            for sample, (_, maps) in zip(looks[run.label], rows, strict=True):
                try:
                    maps[run.label] = look(model, sample, kind, **options)
                except UserError as error:
                    raise UserError(f"{run.folder}: {error}") from error
    if images:  # a file has no class
        for rows in found.values():
            for _, maps in rows:
                for one in maps.values():
                    one.label = None
    return found


def said(one: Map, names: Sequence[str] = ()) -> tuple[str, str]:
    """What a run predicts, marked as right or wrong, and the text's colour."""
    lines, colour = [], "black"
    if one.predicted is not None:
        label, score = one.predicted
        text = f"{_name(label, names)} ({100 * score:.0f} %)"
        if one.label is not None:
            right = label == one.label
            text, colour = f"{text} {'✓' if right else '✗'}", RIGHT if right else WRONG
        lines.append(text)
    if not one.values.any():
        lines.append("nothing positive")
    if one.added:
        lines.append(f"{100 * one.added:.0f} % to added tokens")
    return "\n".join(lines), colour


def _name(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else f"class {label}"


def arrange(rows: Sequence[tuple[Look, dict[str, Map]]], names: Sequence[str] = ()) -> Grid:
    """Samples and runs as a grid.

    Images: a row for each sample, the input and a column for each run. Head by head: a row for each sample and run.
    Clips: below each sample's frames a row for each run (and head), frame by frame.
    """
    first = next(iter(rows[0][1].values()))
    clips = first.image.ndim == 4
    heads = first.values.ndim > (3 if clips else 2)
    grid = Grid([], [], [])
    for sample, maps in rows:
        one = next(iter(maps.values()))
        truth = sample.name if one.label is None else f"{sample.name}\n{_name(one.label, names)}"
        if clips:
            frames = _frames(one)
            grid.rows.append([GridCell(frame) for frame in frames])
            grid.left.append(truth)
            for label, found in maps.items():
                text, colour = said(found, names)
                for head, values in enumerate(found.values if heads else [found.values]):
                    cells = [GridCell(frame, value) for frame, value in zip(_frames(found), values, strict=True)]
                    cells[len(cells) // 2].text, cells[len(cells) // 2].colour = text, colour
                    grid.rows.append(cells)
                    grid.left.append(f"{label}\nhead {head}" if heads else label)
            grid.top = [f"frame {i}" for i in _frame_numbers(one)]
        elif heads:
            for label, found in maps.items():
                text, colour = said(found, names)
                grid.rows.append(
                    [GridCell(found.image, text=text, colour=colour), *(GridCell(found.image, v) for v in found.values)]
                )
                grid.left.append(f"{label}\n{truth}")
            grid.top = ["input", *(f"head {head}" for head in range(len(first.values)))]
        else:
            cells = [GridCell(one.image)]
            for found in maps.values():
                text, colour = said(found, names)
                cells.append(GridCell(found.image, found.values, text, colour))
            grid.rows.append(cells)
            grid.left.append(truth)
            grid.top = ["input", *maps]
    if len({len(row) for row in grid.rows}) > 1:
        raise UserError("these runs have maps of different numbers of heads or frames: look at them one by one.")
    return grid


def _frame_numbers(one: Map) -> list[int]:
    """The middle frame of every step of the map in time."""
    frames, steps = len(one.image), one.values.shape[-3]
    return [min(frames - 1, int((i + 0.5) * frames / steps)) for i in range(steps)]


def _frames(one: Map) -> list[np.ndarray]:
    return [one.image[i] for i in _frame_numbers(one)]


def picture(rows: Sequence[tuple[Look, dict[str, Map]]], kind: str, names: Sequence[str] = ()) -> np.ndarray:
    """The grid of one kind of map as an RGB image, uint8, for mmengine's visualizers."""
    canvas = FigureCanvasAgg(draw_grid(arrange(rows, names), KINDS[kind]))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_attention(
    found: dict[str, list[tuple[Look, dict[str, Map]]]],
    out: str | os.PathLike[str],
    names: Sequence[str] = (),
    title: str = "",
    kind: str = ".png",
) -> list[Path]:
    """Write one picture for each kind of map, ``<out>_<kind>.png``.

    Args:
        found: From :func:`looked_at`.
        out: The files' common path.
        names: The classes' names; their numbers where there are none.
        title: A line above.
        kind: ``.png`` or ``.svg``.
    """
    out = Path(out)
    out = out.with_suffix("") if out.suffix in (".png", ".svg") else out
    return [
        save_figure(draw_grid(arrange(rows, names), KINDS[name], title), f"{out}_{name}{kind}", dpi=90)
        for name, rows in found.items()
    ]
