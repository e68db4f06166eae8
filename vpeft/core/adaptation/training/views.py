"""A fixed number of augmented views of every training image."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from vpeft.core.backbones.probing.at_rest import random_numbers_as_before


class Views(Dataset):
    """A data set whose pipeline draws, for every image, one of ``views`` sets of random numbers.

    View v of image i is the same in every run, whatever its seed. In ``views`` epochs an image is seen in each of its
    views once, in an order that is drawn anew from the run's seed for the next.

    Args:
        data: The data set.
        views: How many, N.
        seed: Of the run.
    """

    def __init__(self, data: Dataset, views: int, seed: int) -> None:
        self.data, self.views, self.seed = data, views, seed
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # seen by workers that live on

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "data" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.data, name)

    def begin(self, epoch: int) -> None:
        """Begin an epoch."""
        self._epoch[0] = epoch

    def view_of(self, index: int) -> int:
        """In which of its views, 0 to N-1, an image is seen in this epoch."""
        turn, place = divmod(int(self._epoch), self.views)
        return int(np.random.default_rng([self.seed, turn, index]).permutation(self.views)[place])

    def __getitem__(self, index: int) -> Any:
        name = f"view {self.view_of(index)} of image {index}"
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")
        with random_numbers_as_before():
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(
                seed
            )  # and not that of an accelerator, which reading does not draw from
            return self.data[index]
