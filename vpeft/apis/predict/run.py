"""The work of ``vpeft predict``: predict, show, write, draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from vpeft.apis.commands.ending import say
from vpeft.apis.predict.files import Answered, json_text, predictions_csv, print_table
from vpeft.apis.predict.inputs import FileNames
from vpeft.apis.predict.predictor import Predictor
from vpeft.apis.predict.results import FailedInput
from vpeft.errors import UserError, one_line
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
) -> int:
    """Predict images or clips, and write what is asked for; what cannot be read is named, and the others go on.

    Args:
        run: The opened run.
        images: Files, folders, patterns, videos.
        json_file: A JSON file; ``-`` is the standard output, in the place of the table.
        csv_file: A CSV file; ``-`` as of ``json_file``.
        draw: A folder of pictures.
        auto_label: A folder for a data set of what the run is sure of.
        threshold: The least score; of a data set 0.5 when None.
        options: Further ones of :meth:`Predictor.stream`.

    Returns:
        How many could not be read.

    Raises:
        UserError: Both JSON and CSV are for the standard output, or an image or a folder is refused.
    """
    printed = [json_file, csv_file].count("-")
    if printed == 2:
        raise UserError("--json - and --csv - are both for the standard output: give one of them a file.")
    writer = None
    if auto_label is not None:
        from vpeft.apis.predict.auto_label import SURE, AutoLabel

        writer = AutoLabel(run, auto_label, SURE if threshold is None else threshold)
    names, found, failed = FileNames(), Answered(json_file is not None), 0
    least = threshold if writer is None or run.is_cut else None  # a data set leaves out what has one answer too
    for one in run.stream(images, threshold=least, **options):
        found.add(one)
        if isinstance(one, FailedInput):
            failed += 1
            say(f"failed: {one_line(one.reason)}", to_error=True)
            continue
        if draw is not None:
            from vpeft.apis.predict.draw import drawn_prediction, picture_of, write_picture

            write_picture(drawn_prediction(one, picture_of(one.name)), Path(draw) / names.of(one.name, ".png"))
        if writer is not None:
            writer.add(one)
    if json_file is not None:
        _give(json_text(run, found) + "\n", json_file)
    if csv_file is not None:
        _give(predictions_csv(found), csv_file)
    if not printed:
        print_table(found, Console(highlight=False))
    if writer is not None:
        said = f"{writer.finish()}: {writer.written} written, {writer.left_out} left out below {writer.threshold}"
        say(said, to_error=printed > 0)
    return failed


def _give(text: str, file: str) -> None:
    if file == "-":
        say(text.removesuffix("\n"))
    else:
        write_atomically(Path(file), text.encode("utf-8", "surrogateescape"))
