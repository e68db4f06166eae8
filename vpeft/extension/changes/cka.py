"""Centred kernel alignment (CKA) between the layers of two models.

Linear CKA (Kornblith et al., Similarity of neural network representations revisited, ICML 2019) with the unbiased
estimator of HSIC (Song et al., Feature selection via dependence maximization, JMLR 2012), averaged over batches before
the ratio is taken (Nguyen et al., Do wide and deep networks learn the same things?, ICLR 2021), so that it does not
depend on the size of the batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.backbones.recording import blocks_of
from vpeft.errors import UserError

#: Fewest samples of a batch of which the unbiased estimate exists.
SMALLEST = 4


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741  (the literature's letters)
    """The unbiased estimate of HSIC from two kernel matrices ``(n, n)``, n at least 4."""
    n = len(k)
    k, l = (m - torch.diag(m.diagonal()) for m in (k, l))  # noqa: E741
    trace = (k * l.t()).sum()
    sums = k.sum() * l.sum() / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (k.sum(0) @ l.sum(1))
    return (trace + sums - cross) / (n * (n - 3))


class CKA:
    """Linear CKA of every layer of one model with every layer of another, batch by batch."""

    def __init__(self) -> None:
        self.batches = 0
        self.cross: Tensor | float = 0.0
        self.own: list[Tensor | float] = [0.0, 0.0]

    def add(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Add a batch: the features ``(B, ...)`` of every layer of both models. One below four samples is left out."""
        if len(first[0]) < SMALLEST:
            return
        flat = [[x.detach().double().flatten(1) for x in layers] for layers in (first, second)]
        a, b = ([x @ x.t() for x in layers] for layers in flat)
        self.cross = self.cross + torch.stack([torch.stack([unbiased_hsic(k, l) for l in b]) for k in a])  # noqa: E741
        self.own = [
            own + torch.stack([unbiased_hsic(k, k) for k in kernels])
            for own, kernels in zip(self.own, (a, b), strict=True)
        ]
        self.batches += 1

    def matrix(self) -> Tensor:
        """CKA ``(layers of the first, layers of the second)``.

        Raises:
            UserError: No batch had four samples.
        """
        if not self.batches:
            raise UserError("CKA needs batches of at least four samples.")
        first, second = self.own
        return self.cross / (first[:, None] * second[None]).sqrt()


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Unbiased linear CKA of two sets of features ``(n, ...)`` of the same samples."""
    cka = CKA()
    cka.add([x], [y])
    return float(cka.matrix()[0, 0])


@contextmanager
def block_outputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within the context, the list holds the output of every block of the last forward pass, as the next one reads it.

    Prompts have left by then, so that the shapes are the frozen host's.
    """
    blocks = blocks_of(find_adaptation(model).host)
    seen: list[Tensor] = [torch.empty(0)] * len(blocks)

    def keep(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output  # beside it attention weights
            seen[index] = stream.transpose(0, 1) if blocks[index].kind.tokens_first else stream

        return hook

    handles = [block.module.register_forward_hook(keep(block.index)) for block in blocks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def frozen_against_tuned(model: nn.Module, batches: Iterable[Any]) -> Tensor:
    """CKA of every block of the frozen host (rows) with every block of the tuned one, ``(blocks, blocks)``.

    The frozen host is run on what the tuned one got, without the head, which may be of another width.

    Args:
        model: The adapted model, in eval mode.
        batches: As ``model.test_step`` takes them.
    """
    cka, adaptation = CKA(), find_adaptation(model)
    backbone, got = adaptation.host.backbone, []
    handle = backbone.register_forward_pre_hook(lambda module, args: got.append(args))
    try:
        with block_outputs(model) as seen, torch.no_grad():
            for batch in batches:
                got.clear()
                model.test_step(batch)
                tuned, (args,) = list(seen), got
                with adaptation.disabled():
                    backbone(*args)
                cka.add(list(seen), tuned)
    finally:
        handle.remove()
    return cka.matrix()
