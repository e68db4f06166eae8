"""Programs that run without vpeft: ONNX, TorchScript, torch.export."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vpeft.apis.export.detector_onnx import write_detector
from vpeft.apis.export.plain import PlainModel, difference, example_images, input_size
from vpeft.errors import UserError, missing_package, one_line
from vpeft.files import write_atomically

#: Largest difference of a program's answers from those of the model, both in float32, relative to the largest.
TOLERANCE = 1e-3
#: A program is traced with a batch of the first size, and tried with all. Where a network's own code turns sizes into
#: numbers (windows of OpenMMLab's Swin) the first fails, and the program is of one image.
BATCHES: tuple[tuple[int, ...], ...] = ((2, 1, 3), (1,))
#: Heights and widths that a program of any size is tried with, as multiples of the run's own.
MULTIPLES = ((1, 2), (2, 1), (2, 2))
INPUT, OUTPUT, FACTS = "images", "scores", "vpeft.json"


@dataclass(frozen=True)
class Free:
    """What a program leaves open: the number of images, their height and width."""

    batch: bool
    size: bool

    def axes(self, dims: int) -> dict[int, str]:
        """Names of the open axes of a tensor of so many."""
        open_axes = {0: "batch"} if self.batch else {}
        return open_axes | ({dims - 2: "height", dims - 1: "width"} if self.size else {})


#: Gives a program's bytes, and the program as it is loaded from them, of the model's answers and images to trace with.
Maker = Callable[[nn.Module, Tensor, Free], tuple[bytes, Callable[[Tensor], Tensor]]]


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


def write_onnx(
    plain: PlainModel, out: Path, dynamic_size: bool = False, size: tuple[int, int] | None = None
) -> list[str]:
    """Write ONNX, of a dynamic batch where the network can, once onnxruntime gives the model's answers."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(f"--to onnx: {missing_package(error) or error} (pip install 'vpeft[export]')") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if plain.run.family == "detection":
        _of_suffix(out, ".onnx")
        if dynamic_size:
            raise UserError("--dynamic-size: a detector's anchors are of one size of images: leave it out.")
        with _quiet():
            return write_detector(plain, out, options, size)

    def make(answers: nn.Module, images: Tensor, free: Free) -> tuple[bytes, Callable[[Tensor], Tensor]]:
        buffer = io.BytesIO()
        is_map = plain.run.family == "segmentation"
        out_axes = free.axes(images.dim()) if is_map else replace(free, size=False).axes(2)
        axes = {"dynamic_axes": {INPUT: free.axes(images.dim()), OUTPUT: out_axes}}
        names = {"input_names": [INPUT], "output_names": [OUTPUT]}
        torch.onnx.export(answers, (images,), buffer, dynamo=False, **names, **axes)
        model = onnx.load_from_string(buffer.getvalue())
        onnx.helper.set_model_props(model, facts(plain))
        onnx.checker.check_model(model)
        data = model.SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return data, lambda x: torch.from_numpy(session.run(None, {INPUT: x.numpy()})[0])

    said = _write(plain, out, ".onnx", make, dynamic_size, size)
    return [
        f"onnxruntime {said}",
        f"load it: onnxruntime.InferenceSession({str(out)!r}).run(None, {{{INPUT!r}: images}})",
    ]


def write_torchscript(
    plain: PlainModel, out: Path, dynamic_size: bool = False, size: tuple[int, int] | None = None
) -> list[str]:
    """Write a traced program for ``torch.jit.load``, once it gives the model's answers."""

    def make(answers: nn.Module, images: Tensor, free: Free) -> tuple[bytes, Callable[[Tensor], Tensor]]:
        buffer = io.BytesIO()
        program = torch.jit.trace(answers, (images,), check_trace=False)
        torch.jit.save(program, buffer, _extra_files={FACTS: json.dumps(facts(plain))})
        buffer.seek(0)
        return buffer.getvalue(), torch.jit.load(buffer)

    said = _write(plain, out, ".pt", make, dynamic_size, size)
    return [f"it {said}", f"load it: torch.jit.load({str(out)!r})(images)"]


def write_pt2(
    plain: PlainModel, out: Path, dynamic_size: bool = False, size: tuple[int, int] | None = None
) -> list[str]:
    """Write a program of ``torch.export``, of a dynamic batch where the network can, once it answers as the model."""

    def make(answers: nn.Module, images: Tensor, free: Free) -> tuple[bytes, Callable[[Tensor], Tensor]]:
        buffer = io.BytesIO()
        batch = torch.export.Dim("batch", min=1, max=4096)
        axes = {axis: batch if axis == 0 else torch.export.Dim.AUTO for axis in free.axes(images.dim())}
        program = torch.export.export(answers, (images,), dynamic_shapes={"images": axes} if axes else None)
        torch.export.save(program, buffer, extra_files={FACTS: json.dumps(facts(plain))})
        buffer.seek(0)
        return buffer.getvalue(), torch.export.load(buffer).module()

    said = _write(plain, out, ".pt2", make, dynamic_size, size)
    return [f"it {said}", f"load it: torch.export.load({str(out)!r}).module()(images)"]


def _write(
    plain: PlainModel, out: Path, suffix: str, make: Maker, dynamic_size: bool, size: tuple[int, int] | None
) -> str:
    """Make a program, compare it, and write it; what is said of it.

    Args:
        plain: The model.
        out: The file.
        suffix: How its name ends.
        make: Gives the file's bytes, and the program as it is loaded from them.
        dynamic_size: Whether it has to take images of other heights and widths.
        size: Height and width of its images, where they are not the run's.
    """
    _of_suffix(out, suffix)
    if plain.run.family == "detection":
        raise UserError(
            f"{out}: a detector's answer is made by steps that a program of this form does not hold (proposals, NMS): "
            "take --to onnx, or --to mmdet."
        )
    answers, fault = plain.answers.requires_grad_(False), ""
    sizes = _sizes(plain, answers) if dynamic_size else [size]
    for batches, traced in itertools.product(BATCHES, sizes[:2]):
        free = Free(len(batches) > 1, dynamic_size)
        try:
            with _quiet(), torch.no_grad():
                data, program = make(answers, example_images(plain.run, batches[0], size=traced), free)
                far = _compare(plain, program, batches, sizes)
        except (MemoryError, OSError):
            raise
        except Exception as error:  # of exporters and runtimes: many kinds
            fault = one_line(error, 300) if dynamic_size or not fault else fault
            continue
        write_atomically(out, data)
        said = "a batch of any size" if free.batch else "one image at a time"
        if dynamic_size:
            said += f", and images of other sizes (tried: {_listed(sizes)})"
        return f"differs by {far:.1e} (relative, other random images); it takes {said}"
    what = (
        "takes one size of images as a program: leave --dynamic-size out." if dynamic_size else "cannot be written so:"
    )
    raise UserError(f"{out}: this model {what} {fault} Nothing is kept.")


def _of_suffix(out: Path, suffix: str) -> None:
    if out.suffix != suffix:
        raise UserError(f"{out}: the name ends in {suffix}.")


def _sizes(plain: PlainModel, answers: nn.Module) -> list[tuple[int, int]]:
    """The run's own height and width of images, and three others that a program of any size is held against.

    Raises:
        UserError: The network itself takes only its own.
    """
    height, width = input_size(plain.run)
    sizes = [(height, width), *((a * height, b * width) for a, b in MULTIPLES)]
    for size in sizes[1:]:
        try:
            with torch.no_grad():
                answers.eval()(example_images(plain.run, 1, size=size))
        except (MemoryError, OSError):
            raise
        except Exception as error:  # of networks: assertions, shapes that do not fit
            raise UserError(
                f"--dynamic-size: this network takes images of {_listed(sizes[:1])} alone, and none of "
                f"{_listed([size])} ({one_line(error, 200)}): leave it out. Nothing is kept."
            ) from error
    return sizes


def _listed(sizes: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{height} x {width}" for height, width in sizes)


def _compare(
    plain: PlainModel,
    program: Callable[[Tensor], Tensor],
    batches: Sequence[int],
    sizes: Sequence[tuple[int, int] | None],
) -> float:
    """The largest difference from the model's answers, on other images than those of the tracing.

    Raises:
        UserError: It is too large.
    """
    far = 0.0
    tried = [(batch, size) for size in sizes for batch in batches]
    for seed, (batch, size) in enumerate(tried, start=1):
        images = example_images(plain.run, batch, seed, size)
        want, got = plain.answers(images).double(), program(images).double()
        here = difference(want, got) if got.shape == want.shape else float("inf")
        if not here <= TOLERANCE:
            where = f" of {_listed([size])}" if size else ""
            raise UserError(f"its answers differ by {here:.1e} (relative) in a batch of {batch}{where}.")
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
