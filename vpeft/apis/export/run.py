"""The work of ``vpeft export``: from a run to a file for elsewhere, held against the run before it is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vpeft.apis.export.libraries import LOADERS, write_hf, write_openmmlab, write_peft, write_timm
from vpeft.apis.export.plain import PlainModel, plain_model
from vpeft.apis.export.programs import write_onnx, write_pt2, write_torchscript
from vpeft.apis.predict.load import load
from vpeft.errors import UserError
from vpeft.registry import nearest

#: What writes each form; it gives the lines that are said.
FORMS: dict[str, Callable[[PlainModel, Path], list[str]]] = {
    "timm": write_timm,
    "hf": write_hf,
    **{package: partial(write_openmmlab, to=package) for package in LOADERS},
}
#: What writes each form that is a program.
PROGRAMS: dict[str, Callable[[PlainModel, Path, bool, tuple[int, int] | None], list[str]]] = {
    "onnx": write_onnx,
    "torchscript": write_torchscript,
    "pt2": write_pt2,
}
PEFT = "peft"
#: Longest side of a program's images.
MOST_PIXELS = 8192


def export_run(
    source: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    dynamic_size: bool = False,
    size: Sequence[int] | None = None,
) -> list[str]:
    """Write a run's model in another form.

    Args:
        source: A run's folder, adapter file, checkpoint or merged file.
        to: ``timm``, ``hf``, ``mmpretrain``, ``mmdet``, ``mmseg``, ``mmaction``, ``onnx``, ``torchscript``, ``pt2``
            or ``peft``.
        out: The file; of ``hf`` and ``peft`` a folder.
        weights: As of :func:`vpeft.load`.
        dynamic_size: Whether a program has to take images of other heights and widths than the run's; it is held
            against the run at three of them.
        size: Height and width of the images that a program takes; default the run's own.

    Returns:
        Lines that say how near it is, and how it is loaded.

    Raises:
        UserError: The form cannot hold the model, or what was written answers otherwise: nothing is kept then.
    """
    if to not in (forms := (*FORMS, *PROGRAMS, PEFT)):
        raise UserError(f"--to {to}: {nearest(to, forms)}")
    if dynamic_size and to not in PROGRAMS:
        raise UserError(f"--dynamic-size is of programs ({', '.join(PROGRAMS)}), not of --to {to}: leave it out.")
    if size is not None:
        _need_size(to, size, dynamic_size)
    run = load(source, weights, "cpu")
    if to == PEFT:
        return write_peft(run, Path(out))
    plain = plain_model(run)
    if to in PROGRAMS:
        lines = PROGRAMS[to](plain, Path(out), dynamic_size, tuple(size) if size else None)
    else:
        lines = FORMS[to](plain, Path(out))
    how = f"exported as it is ({plain.unmerged})" if plain.unmerged else "merged"
    return [f"{out}: {how}; the plain model differs by {plain.difference:.1e} (relative, random input)", *lines]


def _need_size(to: str, size: Sequence[int], dynamic_size: bool) -> None:
    """Refuse a size that nothing can be made of."""
    if to not in PROGRAMS:
        raise UserError(f"--size is of programs ({', '.join(PROGRAMS)}), not of --to {to}: leave it out.")
    if dynamic_size:
        raise UserError("--size and --dynamic-size exclude each other: give one.")
    if len(size) != 2 or not all(1 <= one <= MOST_PIXELS for one in size):
        raise UserError(f"--size {' '.join(map(str, size))}: a height and a width of 1 to {MOST_PIXELS} pixels.")
