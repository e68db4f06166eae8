"""A data set of what a run is sure of, in the layout that runs of its kind are trained on."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vpeft.apis.predict.draw import picture_of, write_picture
from vpeft.apis.predict.inputs import FileNames
from vpeft.apis.predict.predictor import Predictor
from vpeft.apis.predict.results import BoxPrediction, ClassPrediction, MapPrediction, Prediction, run_lengths
from vpeft.core.datasets.load.lines import check_name
from vpeft.errors import UserError, printable
from vpeft.files import write_atomically, write_json

#: Below this score nothing is a label, unless the user says otherwise.
SURE = 0.5
#: Of the pixels of a label map that no class is asked for.
IGNORED = 255


def _link(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """A hard link, or a copy where the disk cannot."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


class AutoLabel:
    """Writes the data set, image by image.

    * One label an image or clip: ``CLASS/file``.
    * Several: ``images/`` and ``labels.csv`` with the columns ``path`` and ``label`` (``cat|dog``).
    * Boxes and masks: ``images/`` and ``annotations.json`` in the form of COCO, with the scores.
    * Label maps: ``images/``, ``masks/`` and ``classes.txt``; pixels below the threshold are 255, asked for nothing.

    Images are hard links where the disk can, and copies elsewhere; nothing is changed in the originals' folder.

    Args:
        run: What predicts.
        folder: A new or empty folder.
        threshold: The least score.

    Attributes:
        written: How many images or clips were written.
        left_out: How many were not, the run not being sure of anything in them.

    Raises:
        UserError: The folder holds something, or a class has a name that no folder can have.
    """

    def __init__(self, run: Predictor, folder: str | os.PathLike[str], threshold: float = SURE) -> None:
        self.folder, self.run, self.threshold = Path(folder), run, threshold
        self.written = self.left_out = 0
        self._names, self._rows = FileNames(), []
        self._coco: dict[str, Any] = {"images": [], "annotations": []}
        if self.folder.is_file() or (self.folder.is_dir() and any(self.folder.iterdir())):
            raise UserError(f"--auto-label {self.folder} holds something already: give a new folder.")
        if not 0 <= threshold <= 1:
            raise UserError(f"--threshold {threshold}: a score is from 0 to 1.")
        if run.family in ("classification", "video") and run.label_threshold is None:
            for name in run.classes:
                check_name(name, f"--auto-label {self.folder}: the class {printable(name)!r} names a folder")
                if "/" in name or name.startswith("."):
                    raise UserError(
                        f"--auto-label {self.folder}: the class {printable(name)!r} can be no folder of its own: "
                        "its name has a slash, or starts with a dot."
                    )

    def add(self, found: Prediction) -> None:
        """Write one image with its labels, where the run is sure of any.

        Raises:
            UserError: It is an array, which has no file, or cannot be written.
        """
        if isinstance(found, ClassPrediction):
            done = self._classes(found)
        else:
            done = self._boxes(found) if isinstance(found, BoxPrediction) else self._map(found)
        self.written, self.left_out = self.written + done, self.left_out + (not done)

    def _classes(self, found: ClassPrediction) -> bool:
        sure = [name for name, score in zip(found.classes, found.scores, strict=True) if score >= self.threshold]
        if not sure:
            return False
        if self.run.label_threshold is None:
            self._image(found.name, self.folder / sure[0])
        else:
            self._rows.append((f"images/{self._image(found.name, self.folder / 'images')}", "|".join(sure)))
        return True

    def _boxes(self, found: BoxPrediction) -> bool:
        areas = (found.boxes[:, 2:] - found.boxes[:, :2]).clamp(min=0).prod(1).tolist()
        sure = [i for i, score in enumerate(found.scores) if score >= self.threshold and areas[i] > 0]
        if not sure:
            return False
        number, (height, width) = len(self._coco["images"]) + 1, found.size
        file = self._image(found.name, self.folder / "images")
        self._coco["images"].append({"id": number, "file_name": f"images/{file}", "height": height, "width": width})
        for i in sure:
            left, top, right, bottom = found.boxes[i].tolist()
            one = {
                "id": len(self._coco["annotations"]) + 1,
                "image_id": number,
                "category_id": found.labels[i] + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
                "score": found.scores[i],
            }
            if found.masks is not None:
                one |= {"segmentation": run_lengths(found.masks[i].numpy()), "area": int(found.masks[i].sum())}
            self._coco["annotations"].append(one)
        return True

    def _map(self, found: MapPrediction) -> bool:
        if max(found.labels) >= IGNORED:
            raise UserError(
                f"--auto-label: class {max(found.labels)} does not fit into a label map of one byte a pixel."
            )
        label_map = found.label_map.numpy().astype(np.uint8)
        if found.confidence is not None:
            label_map[(found.confidence < self.threshold).numpy()] = IGNORED
        if (label_map == IGNORED).all():
            return False
        file = self._image(found.name, self.folder / "images")
        write_picture(Image.fromarray(label_map), (self.folder / "masks" / file).with_suffix(".png"))
        return True

    def _image(self, name: str, folder: Path) -> str:
        """Put an image or clip into a folder; its name there."""
        file = self._names.of(name)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if os.path.isdir(name):  # of frames
                shutil.copytree(name, folder / file, copy_function=_link)
            elif os.path.isfile(name):
                _link(name, folder / file)
            else:  # a frame of a video
                write_picture(Image.fromarray(picture_of(name)), folder / file)
        except (OSError, shutil.Error) as error:
            raise UserError(f"{folder / file} could not be written ({error}).") from error
        return file

    def finish(self) -> Path:
        """Write what stands beside the images.

        Raises:
            UserError: Nothing was written at all.
        """
        if not self.written:
            raise UserError(
                f"--auto-label {self.folder}: nothing has a score of {self.threshold} or more: no data set."
            )
        if self._rows:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([("path", "label"), *self._rows])
            write_atomically(self.folder / "labels.csv", text.getvalue().encode("utf-8", "surrogateescape"))
        if self._coco["images"]:
            count = max([len(self.run.classes), *(one["category_id"] for one in self._coco["annotations"])])
            names = [*self.run.classes, *map(str, range(len(self.run.classes), count))]
            self._coco["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
            write_json(self.folder / "annotations.json", self._coco)
        if self.run.family == "segmentation" and self.run.classes:
            write_atomically(self.folder / "classes.txt", "".join(f"{name}\n" for name in self.run.classes).encode())
        return self.folder
