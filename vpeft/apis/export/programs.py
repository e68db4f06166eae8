"""Programs that run without vpeft: ONNX, TorchScript, torch.export."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vpeft.apis.export.plain import PlainModel, difference, example_images
from vpeft.errors import UserError, missing_package, one_line
from vpeft.files import write_atomically

#: Largest difference of a program's answers from those of the model, both in float32, relative to the largest.
TOLERANCE = 1e-3
#: A program is traced with a batch of the first size, and tried with all. Where a network's own code turns sizes into
#: numbers (windows of OpenMMLab's Swin) the first fails, and the program is of one image.
BATCHES: tuple[tuple[int, ...], ...] = ((2, 1, 3), (1,))
INPUT, OUTPUT, FACTS = "images", "scores", "vpeft.json"


def facts(plain: PlainModel) -> dict[str, str]:
    """What goes along with a program, as texts: names of the classes, preprocessing, and what its output is."""
    run = plain.run
    said = {
        "classes": json.dumps(list(run.classes)),
        "preprocessing": json.dumps(run.preprocessing),
        "family": str(run.family),
        "output": "class scores before the softmax" + (", a map" if run.family == "segmentation" else ""),
        "several_labels": json.dumps(run.label_threshold is not None),
    }
    return said


def write_onnx(plain: PlainModel, out: Path) -> list[str]:
    """Write ONNX, of a dynamic batch where the network can, once onnxruntime gives the model's answers."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(f"--to onnx: {missing_package(error) or error} (pip install 'vpeft[export]')") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3

    def make(answers: nn.Module, images: Tensor, is_dynamic: bool) -> tuple[bytes, Callable[[Tensor], Tensor]]:
        buffer = io.BytesIO()
        axes = {"dynamic_axes": {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}} if is_dynamic else {}
        names = {"input_names": [INPUT], "output_names": [OUTPUT]}
        torch.onnx.export(answers, (images,), buffer, dynamo=False, **names, **axes)
        model = onnx.load_from_string(buffer.getvalue())
        onnx.helper.set_model_props(model, facts(plain))
        onnx.checker.check_model(model)
        data = model.SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return data, lambda x: torch.from_numpy(session.run(None, {INPUT: x.numpy()})[0])

    said = _write(plain, out, ".onnx", make)
    return [
        f"onnxruntime {said}",
        f"load it: onnxruntime.InferenceSession({str(out)!r}).run(None, {{{INPUT!r}: images}})",
    ]


def write_torchscript(plain: PlainModel, out: Path) -> list[str]:
    """Write a traced program for ``torch.jit.load``, once it gives the model's answers."""

    def make(answers: nn.Module, images: Tensor, is_dynamic: bool) -> tuple[bytes, Callable[[Tensor], Tensor]]:
        buffer = io.BytesIO()
        program = torch.jit.trace(answers, (images,), check_trace=False)
        torch.jit.save(program, buffer, _extra_files={FACTS: json.dumps(facts(plain))})
        buffer.seek(0)
        return buffer.getvalue(), torch.jit.load(buffer)

    return [f"it {_write(plain, out, '.pt', make)}", f"load it: torch.jit.load({str(out)!r})(images)"]


def write_pt2(plain: PlainModel, out: Path) -> list[str]:
    """Write a program of ``torch.export``, of a dynamic batch where the network can, once it answers as the model."""

    def make(answers: nn.Module, images: Tensor, is_dynamic: bool) -> tuple[bytes, Callable[[Tensor], Tensor]]:
        buffer = io.BytesIO()
        shapes = {"dynamic_shapes": {"images": {0: torch.export.Dim("batch", min=1, max=4096)}}} if is_dynamic else {}
        program = torch.export.export(answers, (images,), **shapes)
        torch.export.save(program, buffer, extra_files={FACTS: json.dumps(facts(plain))})
        buffer.seek(0)
        return buffer.getvalue(), torch.export.load(buffer).module()

    return [f"it {_write(plain, out, '.pt2', make)}", f"load it: torch.export.load({str(out)!r}).module()(images)"]


def _write(
    plain: PlainModel,
    out: Path,
    suffix: str,
    make: Callable[[nn.Module, Tensor, bool], tuple[bytes, Callable[[Tensor], Tensor]]],
) -> str:
    """Make a program, compare it, and write it; what is said of it.

    Args:
        plain: The model.
        out: The file.
        suffix: How its name ends.
        make: Gives the file's bytes, and the program as it is loaded from them.
    """
    if out.suffix != suffix:
        raise UserError(f"{out}: the name ends in {suffix}.")
    if plain.run.family == "detection":
        raise UserError(
            f"{out}: a detector's answer is made by steps that no program of one input holds (proposals, NMS): take "
            "--to mmdet, and mmdeploy from there."
        )
    answers, fault = plain.answers.requires_grad_(False), ""
    for batches in BATCHES:
        try:
            with _quiet(), torch.no_grad():
                data, program = make(answers, example_images(plain.run, batches[0]), len(batches) > 1)
                far = _compare(plain, program, batches)
        except (MemoryError, OSError):
            raise
        except Exception as error:  # of exporters and runtimes: many kinds
            fault = fault or one_line(error, 300)
            continue
        write_atomically(out, data)
        sizes = "a batch of any size" if len(batches) > 1 else "one image at a time"
        return f"differs by {far:.1e} (relative, other random images); it takes {sizes}"
    raise UserError(f"{out}: this model cannot be written so: {fault} Nothing is kept.")


def _compare(plain: PlainModel, program: Callable[[Tensor], Tensor], batches: Sequence[int]) -> float:
    """The largest difference from the model's answers, on other images than those of the tracing.

    Raises:
        UserError: It is too large.
    """
    far = 0.0
    for seed, batch in enumerate(batches, start=1):
        images = example_images(plain.run, batch, seed)
        want, got = plain.answers(images).double(), program(images).double()
        here = difference(want, got) if got.shape == want.shape else float("inf")
        if not here <= TOLERANCE:
            raise UserError(f"its answers differ by {here:.1e} (relative) in a batch of {batch}.")
        far = max(far, here)
    return far


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell of every constant that they meet."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.getLogger("torch.onnx").level
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
