"""Scatter plots that answer the pointer, as one self-contained page.

A hand-made page of SVG and a little script: the libraries that could write it carry 1 to 4 MB of script into every
page, and none of them shows the sample's image and finds it again in the other panels without as much code.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vpeft.extension.drawing.script_data import script_json

if TYPE_CHECKING:
    from vpeft.extension.features.panels import Panel

#: Side of the images that the page shows, in pixels, and the most that it carries.
THUMBNAIL, MOST_IMAGES = 48, 3000


def scatter_page(
    panels: Sequence[Panel], names: Sequence[str], style: Callable[[int], tuple[str, str]], title: str = ""
) -> str:
    """The page: pointing at a sample shows its image, class and predictions, and marks it in every panel.

    Args:
        panels: Runs on the same samples.
        names: The classes' names.
        style: Colour and marker of a class, as matplotlib names them.
        title: Heading of the page.
    """
    first = panels[0].features
    limit = 1.05 * max(float(np.abs(panel.places).max()) for panel in panels)
    shown = sorted(set(first.labels.tolist()))
    data = {
        "limit": limit,
        "labels": first.labels.tolist(),
        "indices": first.indices.tolist(),
        "classes": {label: {"name": names[label], "style": style(label)} for label in shown},
        "names": list(names),
        "panels": [
            {
                "title": panel.title.split("\n"),
                "places": panel.places.round(4).tolist(),
                "predicted": panel.features.predicted.tolist(),
            }
            for panel in panels
        ],
        **_sheet(first.images),
    }
    template = Template((Path(__file__).parent / "scatter_page.html").read_text())
    return template.substitute(title=html.escape(title or "Features"), data=script_json(data))


def _sheet(images: np.ndarray) -> dict[str, object]:
    """All images on one JPEG, row by row: its address, images in a row, side of one."""
    if len(images) > MOST_IMAGES:
        return {"sheet": "", "columns": 1, "side": THUMBNAIL}
    side, columns = min(THUMBNAIL, images.shape[1]), 40
    sheet = Image.new("RGB", (columns * side, -(-len(images) // columns) * side))
    for i, image in enumerate(images):
        sheet.paste(Image.fromarray(image).resize((side, side)), ((i % columns) * side, (i // columns) * side))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=70)
    address = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"sheet": address, "columns": columns, "side": side}
