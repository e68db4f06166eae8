"""What a method is given in training: the data, once, the pass whose losses it adds to, and each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass
class TrainingData:
    """The training set for one pass.

    Attributes:
        batches: Pairs of preprocessed images ``(B, 3, H, W)``, or whatever else the model takes, such as clips
            ``(B, clips, 3, T, H, W)``, and labels ``(B,)``, in a fixed order, without random augmentation.
        features: Images to pooled features ``(B, D)`` in front of the head, with gradient.
        logits: Images to class scores ``(B, classes)``, with gradient.
        colours: Mean and standard deviation that images were normalised by, of values up to 255, ``(3, 1, 1)`` or of
            more places; None where that is not known, or there are not three channels.
    """

    batches: Iterable[tuple[Tensor, Tensor]]
    features: Callable[[Tensor], Tensor]
    logits: Callable[[Tensor], Tensor]
    colours: tuple[Tensor, Tensor] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches, with a progress line where the error stream is a terminal."""
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        return iter(track(self.batches, "selecting", console=console, disable=not console.is_terminal))


@dataclass
class TrainingPass:
    """The pass of which a method's losses are taken.

    Attributes:
        scores: What the head's last linear gave, with gradient; None where no method reads them (``reads_scores``).
        again: Runs the same batch once more; returns the task's losses and the scores of that pass.
    """

    scores: Tensor | None
    again: Callable[[], tuple[dict[str, Tensor], Tensor | None]]


@dataclass(frozen=True)
class TrainingStep:
    """A step of the optimiser.

    Attributes:
        number: How many have been made in the run, this one counted; a resumed run goes on counting.
        total: How many the run makes.
    """

    number: int
    total: int
