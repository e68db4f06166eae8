"""Predictions drawn on their images: names below, boxes, masks, label maps."""

from __future__ import annotations

import colorsys
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from vpeft.apis.predict.inputs import VIDEOS, given
from vpeft.apis.predict.results import BoxPrediction, ClassPrediction, Prediction
from vpeft.core.datasets.load.image import LoadImage
from vpeft.errors import UserError, printable
from vpeft.extension.drawing.plots import COLOURS
from vpeft.files import write_atomically

#: Least pixels of the shorter side: lines and texts have a size of their own.
LEAST, TEXT = 320, 15
#: So many names stand below a picture.
NAMES = 8
Colour = tuple[int, int, int]
#: Colours of the first classes; black would be read as none.
FIRST = [colour for colour in COLOURS if colour != "#000000"]


def colour_of(label: int) -> Colour:
    """A colour for a class, the same in every picture; neighbouring classes differ."""
    if label < len(FIRST):
        return tuple(bytes.fromhex(FIRST[label][1:]))
    hue = (0.58 + label * 0.618034) % 1.0
    lightness = (0.45, 0.62, 0.33)[label // 7 % 3]
    return tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.75))


def drawn_prediction(found: Prediction, image: np.ndarray) -> Image.Image:
    """An image with what is predicted of it.

    Args:
        found: The prediction.
        image: The image that it is of, RGB, uint8 ``(H, W, 3)``.
    """
    factor = max(1, -(-LEAST // min(image.shape[:2])))
    picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    picture = _larger(picture, factor)
    if isinstance(found, ClassPrediction):
        lines = [(c, f"{100 * s:.1f} %", n) for c, s, n in zip(found.classes, found.scores, found.labels, strict=True)]
        return _with_names(_picture(picture), lines)
    if isinstance(found, BoxPrediction):
        colours = [colour_of(n) for n in found.labels]
        if found.masks is not None and len(found.masks):
            masks = _larger(found.masks, factor).flip(0)  # the best lies above the others, of boxes too
            picture = draw_segmentation_masks(picture, masks, alpha=0.5, colors=colours[::-1])
        if len(found.boxes):
            picture = _boxes(picture, found, factor, colours)
        counts = {n: found.labels.count(n) for n in dict.fromkeys(found.labels)}
        names = dict(zip(found.labels, found.classes, strict=True))
        return _with_names(_picture(picture), [(names[n], str(count), n) for n, count in counts.items()])
    masks = torch.stack([found.label_map == n for n in found.labels])
    colours = [colour_of(n) for n in found.labels]
    picture = draw_segmentation_masks(picture, _larger(masks, factor), alpha=0.55, colors=colours)
    shares = zip(found.classes, found.shares, found.labels, strict=True)
    return _with_names(_picture(picture), [(c, f"{100 * s:.1f} %", n) for c, s, n in shares])


def _boxes(picture: torch.Tensor, found: BoxPrediction, factor: int, colours: Sequence[Colour]) -> torch.Tensor:
    height, width = picture.shape[1:]
    boxes = found.boxes * factor
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width - 1)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height - 1)
    texts = [f"{printable(c)} {100 * s:.0f}" for c, s in zip(found.classes, found.scores, strict=True)]
    boxes, texts, colours = boxes.flip(0), texts[::-1], colours[::-1]
    thick = max(2, round(min(height, width) / 250))
    over = ["black" if np.dot(colour, (0.299, 0.587, 0.114)) > 102 else "white" for colour in colours]
    text = {"font": _font_file(), "font_size": TEXT, "label_colors": over, "label_background_colors": list(colours)}
    return draw_bounding_boxes(picture, boxes, texts, colors=list(colours), width=thick, fill_labels=True, **text)


def _larger(maps: torch.Tensor, factor: int) -> torch.Tensor:
    return maps.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def _picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _font_file() -> str:
    return font_manager.findfont("DejaVu Sans")  # comes with matplotlib


def _with_names(image: Image.Image, lines: Sequence[tuple[str, str, int]]) -> Image.Image:
    """The image with a line below it for each class: its colour, its name, a value."""
    more = len(lines) - NAMES
    lines = lines[:NAMES]
    rows = len(lines) + (more > 0) or 1
    font, step = ImageFont.truetype(_font_file(), TEXT), TEXT + 6
    whole = Image.new("RGB", (image.width, image.height + rows * step + 6), "white")
    whole.paste(image)
    pen = ImageDraw.Draw(whole)
    for place, (name, value, label) in enumerate(lines):
        top = image.height + 4 + place * step
        pen.rectangle((4, top + 3, 4 + TEXT - 3, top + TEXT), fill=colour_of(label))
        space = image.width - 8 - pen.textlength(value, font)
        pen.text((space, top), value, "black", font)
        pen.text((TEXT + 10, top), _fitting(printable(name), space - TEXT - 18, font), "black", font)
    if not lines:
        pen.text((4, image.height + 4), "nothing above the threshold", "grey", font)
    if more > 0:
        pen.text((TEXT + 10, image.height + 4 + len(lines) * step), f"and {more} more", "grey", font)
    return whole


def _fitting(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    while text and font.getlength(text) > width:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    return text


def picture_of(path: str) -> np.ndarray:
    """The image of a file, RGB, uint8 ``(H, W, 3)``; of a clip the frame in its middle; ``clip.mp4#12`` is a frame.

    Raises:
        UserError: It cannot be read.
    """
    if os.path.isdir(path):
        frames = next(given(path, frames=True)).frames
        return picture_of(frames[len(frames) // 2])
    file, _, frame = path.rpartition("#")
    if frame.isdecimal() and file.lower().endswith(VIDEOS):
        return _frame(file, int(frame))
    if path.lower().endswith(VIDEOS):
        return _frame(path, None)
    return np.ascontiguousarray(LoadImage.read(path)[..., ::-1])


def _frame(path: str, place: int | None) -> np.ndarray:
    import av

    try:
        with av.open(path, metadata_errors="ignore") as container:
            if place is None:
                place = (container.streams.video[0].frames or 1) // 2
            for number, frame in enumerate(container.decode(video=0)):
                if number == place:
                    return frame.to_ndarray(format="rgb24")
    except (OSError, ValueError, IndexError, av.error.FFmpegError) as error:
        raise UserError(f"{path} cannot be decoded: {error}") from error
    raise UserError(f"{path} has no frame {place}.")


def write_picture(image: Image.Image, out: Path) -> Path:
    """Write a picture as PNG, atomically."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return write_atomically(out, buffer.getvalue())
