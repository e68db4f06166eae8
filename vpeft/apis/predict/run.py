"""The work of ``vpeft predict``: predict, show, write, draw."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vpeft.apis.predict.auto_label import SURE, AutoLabel
from vpeft.apis.predict.draw import drawn_prediction, picture_of, write_picture
from vpeft.apis.predict.files import json_text, print_table, write_csv
from vpeft.apis.predict.inputs import FileNames
from vpeft.apis.predict.predictor import Predictor
from vpeft.apis.predict.results import FailedInput, Prediction
from vpeft.errors import one_line
from vpeft.files import write_atomically


def predict_files(
    run: Predictor,
    images: Sequence[str],
    json_file: str | None = None,
    csv_file: str | None = None,
    draw: str | None = None,
    auto_label: str | None = None,
    threshold: float | None = None,
    **options: object,
) -> list[Prediction | FailedInput]:
    """Predict images or clips, and write what is asked for; what cannot be read is named, and the others go on.

    Args:
        run: The opened run.
        images: Files, folders, patterns, videos.
        json_file: A JSON file; ``-`` is the standard output, in the place of the table.
        csv_file: A CSV file.
        draw: A folder of pictures.
        auto_label: A folder for a data set of what the run is sure of.
        threshold: The least score; of a data set 0.5 when None.
        options: Further ones of :meth:`Predictor.stream`.

    Returns:
        What was found, in the order given.
    """
    least = SURE if threshold is None else threshold
    writer = None if auto_label is None else AutoLabel(run, auto_label, least)
    names = FileNames()
    found = []
    for one in run.stream(images, threshold=threshold, **options):
        if isinstance(one, FailedInput):
            print(f"failed: {one_line(one.reason)}", file=sys.stderr, flush=True)
        else:
            if draw is not None:
                picture = drawn_prediction(one, picture_of(one.name))
                write_picture(picture, Path(draw) / names.of(one.name, ".png"))
            if writer is not None:
                writer.add(one)
        found.append(one)
    if json_file == "-":
        print(json_text(run, found))
    elif json_file is not None:
        write_atomically(Path(json_file), (json_text(run, found) + "\n").encode())
    if csv_file is not None:
        write_csv(found, csv_file)
    if json_file != "-":
        print_table(found, Console(highlight=False))
    if writer is not None:
        folder = writer.finish()
        said = f"{folder}: {writer.written} written, {writer.left_out} left out below {least}"
        print(said, file=sys.stderr if json_file == "-" else sys.stdout)
    return found
