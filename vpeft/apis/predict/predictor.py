"""A trained model that answers for new images and clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import TRANSFORMS, DefaultScope
from torch import nn

from vpeft.apis.predict.inputs import Given, given
from vpeft.apis.predict.results import FailedInput, Prediction, prediction
from vpeft.core.datasets.load.frames import LoadFrames
from vpeft.core.datasets.load.image import LoadImage
from vpeft.core.families.samples import label_threshold
from vpeft.core.trained.inputs import file_sample
from vpeft.core.trained.reading import test_reader
from vpeft.errors import UserError, one_line

#: Boxes below this score are not shown, as mmdet's visualizer has it.
BOXES = 0.3


@dataclass
class Predictor:
    """A run that was opened to predict (:func:`vpeft.load`).

    Attributes:
        file: What was learned, in a file of the run.
        model: The model, in eval mode.
        classes: Names of the classes; empty where nobody has stated any.
        family: ``classification``, ``detection``, ``segmentation`` or ``video``.
        preprocessing: What is done to an image (:func:`vpeft.core.trained.record.stated_preprocessing`).
        cfg: The config: model, data preprocessor, and how a test image is read.
    """

    file: Path
    model: nn.Module = field(repr=False)
    classes: tuple[str, ...]
    family: str | None
    preprocessing: dict[str, Any] | None
    cfg: Config = field(repr=False)

    def __post_init__(self) -> None:
        self.scope = self.cfg.get("default_scope") or "mmengine"
        self.steps, self._batch_size = test_reader(self.cfg)
        if not self.steps:
            raise UserError(f"{self.file}: its run states no pipeline of test images, by which others could be read.")
        with DefaultScope.overwrite_default_scope(self.scope):
            self._from_file = Compose(self.steps)
            self._of_frames = any(isinstance(step, LoadFrames) for step in self._from_file.transforms)
            self._from_array = Compose([_taking_arrays(step) for step in self.steps])

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @property
    def label_threshold(self) -> float | None:
        """The least score of a class, by the head, of a run whose images have several labels; None for one label."""
        return label_threshold(self.model)

    @property
    def is_cut(self) -> bool:
        """Whether its predictions are those above a score: boxes, or the classes of an image with several labels."""
        return self.family in ("detection", "instances") or self.label_threshold is not None

    def predict(self, inputs: Any, **options: Any) -> list[Prediction]:
        """Predictions of images or clips, in the order given.

        Args:
            inputs: Paths of files and folders, patterns, arrays in RGB order, or PIL's images; one, or a list of them.
            options: As of :meth:`stream`.

        Raises:
            UserError: One of them cannot be read; :meth:`stream` goes on with the others.
        """
        found = []
        for one in self.stream(inputs, **options):
            if isinstance(one, FailedInput):
                raise UserError(one.reason)
            found.append(one)
        return found

    def stream(
        self,
        inputs: Any,
        top: int = 5,
        threshold: float | None = None,
        batch_size: int | None = None,
        every: int = 1,
    ) -> Iterator[Prediction | FailedInput]:
        """The same one after another, with what could not be read in its place.

        Images are read as those of the run's test are, and the model is asked as in its test: on the same images in the
        same batches the predictions are the same, bit by bit.

        Args:
            inputs: As of :meth:`predict`.
            top: How many classes of an image with one label.
            threshold: Least score of a box (0.3), or of a class of an image with several labels (the head's own).
            batch_size: Images of a pass; those of the run's test when None.
            every: Of the frames of a video each so-manieth, where the run is of images.

        Raises:
            UserError: A number that means nothing, or a threshold where nothing is cut by it.
        """
        several = self.label_threshold is not None
        least = self.label_threshold if several else BOXES
        size = self._batch_size if batch_size is None else batch_size
        if size < 1 or every < 1 or top < 1:
            raise UserError(f"batch_size={size}, every={every}, top={top}: whole numbers from 1 on.")
        if threshold is not None and not self.is_cut:
            raise UserError(f"threshold={threshold}: {self.family} with one answer has none: leave it out.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise UserError(f"threshold={threshold}: a score is from 0 to 1.")
        say = {"top": top, "threshold": least if threshold is None else threshold, "several": several}
        waiting: list[tuple[str, Any]] = []
        for one in given(inputs, self.family == "video", every, self._of_frames):
            waiting.append((one.name, self._read(one)))
            if sum(not isinstance(read, FailedInput) for _, read in waiting) == size:
                yield from self._answers(waiting, say)
                waiting = []
        yield from self._answers(waiting, say)

    def read_array(self, image: np.ndarray) -> dict[str, Any]:
        """An image, uint8 ``(H, W, 3)`` in BGR order, read as those of the run's test."""
        with DefaultScope.overwrite_default_scope(self.scope):
            return self._from_array({**file_sample("array"), "img": image})

    def _read(self, one: Given) -> dict[str, Any] | FailedInput:
        if one.fault is not None:
            return FailedInput(one.name, one.fault)
        try:
            if one.image is not None:
                return self.read_array(one.image)
            with DefaultScope.overwrite_default_scope(self.scope):
                several = {"frames": one.frames, "total_frames": len(one.frames), "frame_dir": one.path}
                read = self._from_file(file_sample(one.path) | (several if one.frames else {}))
        except MemoryError:
            raise
        except UserError as error:
            return FailedInput(one.name, str(error))
        except Exception as error:  # decoders raise whatever a broken file makes them stumble over
            return FailedInput(one.name, f"{one.name} cannot be read: {type(error).__name__}: {one_line(error, 200)}")
        return FailedInput(one.name, f"{one.name} cannot be read.") if read is None else read

    @torch.no_grad()
    def _answers(self, waiting: Sequence[tuple[str, Any]], say: dict[str, Any]) -> list[Prediction | FailedInput]:
        read = [one for _, one in waiting if not isinstance(one, FailedInput)]
        with DefaultScope.overwrite_default_scope(self.scope):
            samples = iter(self.model.test_step(pseudo_collate(read)) if read else ())
        return [
            one if isinstance(one, FailedInput) else self._answer(name, next(samples), say) for name, one in waiting
        ]

    def _answer(self, name: str, sample: Any, say: dict[str, Any]) -> Prediction:
        found = prediction(name, sample, self.classes, **say)
        if found is None:
            raise UserError(f"{self.file}: its model predicts neither classes nor boxes nor label maps.")
        return found


def _taking_arrays(step: dict[str, Any]) -> Any:
    """A step of a pipeline that takes an image which is there already, where it would read a file."""
    kind = TRANSFORMS.get(step["type"]) if isinstance(step["type"], str) else step["type"]
    return LoadImage() if isinstance(kind, type) and issubclass(kind, LoadImageFromFile) else step
