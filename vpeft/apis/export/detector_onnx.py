"""A detector as ONNX, held against mmdet's own answers before it is kept."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.apis.export.detectors import OPSET, OUTPUTS, detector_program
from vpeft.apis.export.plain import PlainModel, example_images
from vpeft.errors import UserError, one_line
from vpeft.files import write_atomically

#: Images that a program is held against, each once with every score and once with those above the threshold.
IMAGES = 3
#: Largest differences of a box: of its corners as a share of the image's longer side, of its score, and the share of
#: pixels that differ in its mask.
SAME_CORNER, SAME_SCORE, OTHER_PIXELS = 0.01, 1e-3, 0.01


def write_detector(plain: PlainModel, out: Path, options: Any, size: tuple[int, int] | None = None) -> list[str]:
    """Write a detector's boxes, scores, labels and masks as a program of one image of the run's size.

    Args:
        plain: The model, of detection.
        out: The file.
        options: Of onnxruntime's session.
        size: Height and width of its images, where they are not those of the run's reading.

    Returns:
        Lines that say how near it is, and how it is loaded.

    Raises:
        UserError: It answers in steps that no program here holds, or the program answers otherwise.
    """
    import onnx
    import onnxruntime

    model = plain.run.model.eval().requires_grad_(False)
    whole = getattr(model.data_preprocessor, "pad_size_divisor", 1)
    if size and any(one % whole for one in size):
        raise UserError(f"--size {size[0]} {size[1]}: this detector takes multiples of {whole} pixels.")
    images = example_images(plain.run, 1, size=size)
    threshold = _settings(model).get("score_thr", 0.0)
    names, buffer = OUTPUTS[: 4 if _masks(model) else 3], io.BytesIO()
    try:
        with torch.no_grad(), _as_ever():
            axes = {name: {0: "found"} for name in names}
            program = detector_program(model, -1.0)  # traced with every score: there are boxes to trace with then
            kinds = {"input_names": ["images"], "output_names": list(names), "dynamic_axes": axes}
            torch.onnx.export(program, (images,), buffer, dynamo=False, opset_version=OPSET, **kinds)
        found = onnx.load_from_string(buffer.getvalue())
        onnx.helper.set_model_props(found, _facts(plain, images))
        compared = 0
        for limit in (-1.0, threshold):
            _set_threshold(found, limit)
            data = found.SerializeToString()
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            with _threshold(model, limit):
                compared += _compare(plain, session, names, images.shape[-2:])
    except (MemoryError, OSError, UserError):
        raise
    except Exception as error:  # of exporters and runtimes: many kinds
        raise UserError(
            f"{out}: this detector cannot be written so: {one_line(error, 300)} Nothing is kept."
        ) from error
    write_atomically(out, data)
    height, width = images.shape[-2:]
    return [
        f"onnxruntime finds mmdet's boxes ({compared} on {IMAGES} random images, with every score and above "
        f"{threshold}); it takes one image of {height} x {width}",
        f"load it: {', '.join(names)} = onnxruntime.InferenceSession({str(out)!r}).run(None, {{'images': images}})",
    ]


def _facts(plain: PlainModel, images: Tensor) -> dict[str, str]:
    said = {
        "boxes": "x1, y1, x2, y2 in pixels of the input",
        "scores": "0 to 1, the best first",
        "labels": "of classes",
    }
    return {
        "classes": json.dumps(list(plain.run.classes)),
        "preprocessing": json.dumps(plain.run.preprocessing),
        "family": "detection",
        "output": json.dumps(said | ({"masks": "of the input's size"} if _masks(plain.run.model) else {})),
        "size": json.dumps(list(images.shape[-2:])),
    }


def _masks(model: nn.Module) -> bool:
    return bool(getattr(model, "with_mask", False))


def _settings(model: nn.Module) -> Any:
    """The test settings that say which scores are answered."""
    return model.roi_head.test_cfg if hasattr(model, "roi_head") else model.bbox_head.test_cfg


@contextlib.contextmanager
def _threshold(model: nn.Module, value: float) -> Iterator[None]:
    settings = _settings(model)
    before = settings.get("score_thr", 0.0)
    settings.score_thr = value
    try:
        yield
    finally:
        settings.score_thr = before


@contextlib.contextmanager
def _as_ever() -> Iterator[None]:
    """mmdet's coders have ways of their own for exporters, which import what mmdet no longer has."""
    before = torch.onnx.is_in_onnx_export
    torch.onnx.is_in_onnx_export = lambda: False
    try:
        yield
    finally:
        torch.onnx.is_in_onnx_export = before


def _set_threshold(program: Any, value: float) -> None:
    """Which scores a program answers: a number of its last suppression."""
    import onnx

    name = [node for node in program.graph.node if node.op_type == "NonMaxSuppression"][-1].input[4]
    new = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], [value])
    for node in program.graph.node:
        if node.output[:1] == [name]:
            node.attribute[0].t.CopyFrom(new)
    for one in program.graph.initializer:
        if one.name == name:
            one.CopyFrom(new)


def _compare(plain: PlainModel, session: Any, names: tuple[str, ...], size: tuple[int, int]) -> int:
    """How many boxes mmdet's own answers and a program's have in common: all.

    Raises:
        UserError: One has a box that the other does not have.
    """
    from mmdet.structures import DetDataSample

    compared, size = 0, tuple(size)
    for seed in range(1, IMAGES + 1):
        images = example_images(plain.run, 1, seed, size=size)
        meta = {"img_shape": size, "ori_shape": size, "batch_input_shape": size, "scale_factor": (1.0, 1.0)}
        with torch.no_grad():
            (sample,) = plain.run.model.predict(images, [DetDataSample(metainfo=meta)], rescale=False)
        want = {"boxes": "bboxes", "scores": "scores", "labels": "labels", "masks": "masks"}
        mine = {name: sample.pred_instances[want[name]] for name in names}
        answers = session.run(None, {"images": images.numpy()})
        theirs = {name: torch.from_numpy(value) for name, value in zip(names, answers, strict=True)}
        for one, other in ((mine, theirs), (theirs, mine)):
            if lost := _not_in(one, other, SAME_CORNER * max(size)):
                raise UserError(
                    f"its boxes are not mmdet's: {lost} of {len(one['boxes'])} have no like. Nothing is kept."
                )
        compared += len(mine["boxes"])
    return compared


def _not_in(one: dict[str, Tensor], other: dict[str, Tensor], pixels: float) -> int:
    """How many boxes of one have no like in the other, so many pixels apart at most.

    Those whose score ties with the last may have changed places with what is not answered.
    """
    if not len(one["boxes"]):
        return 0
    last = min(float(each["scores"].min()) if len(each["scores"]) else 1.0 for each in (one, other))
    asked = one["scores"] > last + SAME_SCORE
    like = torch.cdist(one["boxes"], other["boxes"], float("inf")) <= pixels
    like &= one["labels"][:, None] == other["labels"]
    like &= (one["scores"][:, None] - other["scores"]).abs() < SAME_SCORE
    if "masks" in one and like.any():
        rows, columns = like.nonzero().unbind(1)
        far = (one["masks"][rows] != other["masks"][columns]).float().mean((1, 2))
        like[rows[far > OTHER_PIXELS], columns[far > OTHER_PIXELS]] = False
    return int((asked & ~like.any(1)).sum())
