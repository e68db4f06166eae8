"""Batches whose images are not read: what the backbone makes of them is kept."""

from __future__ import annotations

import pickle
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from vpeft.core.adaptation.training.frozen.feature_records import Unread
from vpeft.core.adaptation.training.frozen.frozen_features import FrozenFeatures
from vpeft.core.backbones.probing.at_rest import random_numbers_as_before

#: Bytes of what samples hold beside their images that may be kept in memory.
MOST = 256 * 2**20


class SparedImages:
    """A data loader that reads no image once the features of all are kept.

    While images are read, what else their samples hold is remembered, and how the features of each are found. From the
    epoch on in which all are known, batches hold these, with images that are read when somebody asks for more than
    their shape: a batch is the same to whoever trains on it, and the random numbers are.

    Args:
        loader: The loader, of samples that come out the same each time without drawing a random number.
        features: The features of the only adapted backbone.
        preprocessor: Makes of a batch what the model is called with.
        say: Is told once that nothing is read any more, or why all is read further on.
    """

    def __init__(
        self, loader: DataLoader, features: FrozenFeatures, preprocessor: nn.Module, say: Callable[[str], None]
    ) -> None:
        self.plain, self.features, self.preprocessor, self.say = loader, features, preprocessor, say
        self._on, self._said = True, False
        self._order = _Noted(loader.batch_sampler)
        object.__setattr__(loader, "batch_sampler", self._order)  # DataLoader refuses that, and would iterate anew
        self._hooks = [
            preprocessor.register_forward_pre_hook(self._before, with_kwargs=True),
            preprocessor.register_forward_hook(self._behind, with_kwargs=True),
        ]
        #: Of each sample, by its number (and view): all but the image, and the digest that its features are found by.
        self._rest: dict[Any, bytes] = {}
        self._digests: dict[Any, bytes] = {}
        self._image: tuple[torch.Size, torch.dtype] | None = None
        #: Numbers of the batch that is not read and trained on now.
        self._now: list[int] | None = None
        self._states: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["plain"], name)

    def __len__(self) -> int:
        return len(self.plain)

    def __iter__(self) -> Iterator[Any]:
        return self._spared() if self._whole() else self._read()

    def stop(self) -> DataLoader:
        """The loader as it was."""
        for hook in self._hooks:
            hook.remove()
        object.__setattr__(self.plain, "batch_sampler", self._order.plain)
        return self.plain

    def off(self, why: str) -> None:
        """Read all images from now on."""
        if self._on:
            self.say(f"frozen features: images are read in every epoch all the same: {why}.")
        self._on = False
        self._rest, self._digests = {}, {}

    # Reading ----------------------------------------------------------------------------------------------------------

    def _read(self) -> Iterator[Any]:
        self._order.noted.clear()
        for batch in self.plain:
            numbers = [self._of(i) for i in self._order.noted.popleft()]
            if self._on:
                self._remember(numbers, batch)
            self.features.asked.clear()
            yield batch
            if self._on and self.features.running:
                self._learn(numbers)

    def _remember(self, numbers: Sequence[Any], batch: Any) -> None:
        """All of a batch's samples but the images, before a step may change it."""
        values = list(batch.values()) if isinstance(batch, Mapping) and "inputs" in batch else [None]
        if not all(isinstance(v, (Tensor, list, tuple)) and len(v) == len(numbers) for v in values):
            self.off("their batches are not of samples one by one")
            return
        self._kind = {key: type(value) for key, value in batch.items()}
        for j, number in enumerate(numbers):
            image = batch["inputs"][j]
            found = (image.shape, image.dtype) if isinstance(image, Tensor) else None
            if found is None or self._image not in (None, found):
                self.off("they are not all of one size")
                return
            self._image = found
            if number not in self._rest:
                self._rest[number] = pickle.dumps({key: value[j] for key, value in batch.items() if key != "inputs"})
        if len(self._rest) * len(self._rest[numbers[0]]) > MOST:
            self.off(f"their labels take more than {MOST:,} bytes of memory")

    def _learn(self, numbers: Sequence[Any]) -> None:
        """What the backbone was asked in a step."""
        asked = self.features.asked
        if len(asked) != 1 or len(asked[0]) != len(numbers):
            self.off("the backbone does not see each once in a step")
        elif any(self._digests.get(n, d) != d for n, d in zip(numbers, asked[0], strict=True)):
            self.off("they come out otherwise in another batch")
        else:
            self._digests.update(zip(numbers, asked[0], strict=True))

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The preprocessor is given blank images in the place of those that are not read."""
        if self._now is None:
            self._states = _chance()
            return None
        blank = torch.zeros((), dtype=self._image[1]).expand(self._image[0])
        batch = {**args[0], "inputs": _batched([blank] * len(self._now), self._kind["inputs"])}
        return (batch, *args[1:]), kwargs

    def _behind(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """And gives images that are read when they are asked for."""
        inputs = output.get("inputs") if isinstance(output, Mapping) else None
        if self._now is None:
            if self._on and torch.is_grad_enabled():  # of a training step
                if self._states != _chance():
                    self.off("batches are changed at random")
                elif not isinstance(inputs, Tensor):
                    self.off("the model is not called with one tensor of them")
            return None
        now, rest = self._now, (args[1:], kwargs)

        def read() -> Tensor:
            if self.features.settled(len(now)):
                self.off("something asks for them, beside the kept features")
            with random_numbers_as_before():
                batch = self.plain.collate_fn([self.plain.dataset[i] for i in now])
                return module.forward(batch, *rest[0], **rest[1])["inputs"]

        digests = [self._digests[self._of(i)] for i in now]
        return {**output, "inputs": Unread.of(inputs.shape, inputs.dtype, inputs.device, read, digests)}

    # Not reading ------------------------------------------------------------------------------------------------------

    def _whole(self) -> bool:
        """Whether all samples are known and their features kept."""
        count = len(self.plain.dataset) * getattr(self.plain.dataset, "views", 1)
        whole = self._on and self.features.running and len(self._digests) == count
        whole = whole and self.features.keeps(list(self._digests.values()))
        if whole and not self._said:
            self.say("frozen features: images are not read any more.")
            self._said = True
        return whole

    def _spared(self) -> Iterator[Any]:
        order = iter(self._order.plain)
        if not (self.plain.persistent_workers and self.plain.num_workers):  # as iterators of a loader begin
            torch.empty((), dtype=torch.int64).random_(generator=self.plain.generator)
        for numbers in order:
            # of bytes that this process made itself: a step may change what it is given, so each gets a copy
            rests = [pickle.loads(self._rest[self._of(i)]) for i in numbers] if self._on else []
            if not rests:  # switched off within the epoch
                yield self.plain.collate_fn([self.plain.dataset[i] for i in numbers])
                continue
            batch = {key: _batched([rest[key] for rest in rests], self._kind[key]) for key in rests[0]}
            images = [Unread.of(*self._image, "cpu", lambda i=i: self._alone(i)) for i in numbers]
            self._now = list(numbers)
            try:
                yield {"inputs": images, **batch}
            finally:
                self._now = None

    def _alone(self, index: int) -> Tensor:
        """An image as the data set gives it."""
        self.off("something asks for them, beside the kept features")
        with random_numbers_as_before():
            return self.plain.dataset[index]["inputs"]

    def _of(self, index: int) -> Any:
        """What a sample is known by: its number, and its view where there are several."""
        view_of = getattr(self.plain.dataset, "view_of", None)
        return index if view_of is None else (index, view_of(index))


class _Noted:
    """A sampler of batches that notes what it gives.

    Args:
        plain: The sampler.
    """

    def __init__(self, plain: Any) -> None:
        self.plain = plain
        self.noted: deque[list[int]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        for numbers in self.plain:
            self.noted.append(list(numbers))
            yield numbers

    def __len__(self) -> int:
        return len(self.plain)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["plain"], name)


def reads_without_chance(data: Any, looked_at: int) -> bool:
    """Whether reading the first samples of a data set draws no random number."""
    with random_numbers_as_before():
        before = _chance()
        for index in range(min(looked_at, len(data))):
            data[index]
        return _chance() == before


def _chance() -> tuple[Any, ...]:
    """The state of all random numbers, to be compared."""
    numpy = np.random.get_state()
    return random.getstate(), (numpy[1].tobytes(), *numpy[2:]), torch.get_rng_state().numpy().tobytes()


def _batched(values: list[Any], kind: type) -> Any:
    return default_collate(values) if issubclass(kind, Tensor) else kind(values)
