"""FourierFT."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import OnTargets, Rows, RowUpdates
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.contract.method import STARTS
from vpeft.registry import PEFT_METHODS


class Spectrum(RowUpdates):
    """``s Re(IFFT2(S))``, S with n numbers at places that are drawn once; the update is made dense.

    Args:
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) of each target.
        count: n.
        scale: s.
        seed: Of the places; linears of one size have the same. They are stored with the adapter.
        start: ``normal``, or ``zero``.
    """

    def __init__(self, size: tuple[int, int], rows: Rows, count: int, scale: float, seed: int, start: str) -> None:
        super().__init__(size, rows)
        self.scale, self.seed, self.start = scale, seed, start
        self.values = nn.ParameterDict({t: torch.empty(count) for t in rows})
        for target in rows:
            self.register_buffer(f"places_{target}", torch.zeros(count, dtype=torch.int64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The n numbers N(0, 1) or zero; the places without repetition, by the seed alone."""
        for target, (first, last) in self.rows.items():
            if self.start == "zero":
                nn.init.zeros_(self.values[target])
            else:
                nn.init.normal_(self.values[target])
            generator = torch.Generator().manual_seed(self.seed)
            every = torch.randperm((last - first) * self.in_features, generator=generator, device="cpu")
            self.places(target).copy_(every[: len(self.values[target])])

    def places(self, target: str) -> Tensor:
        """Places in S ``(rows, in)``, row by row."""
        return self.get_buffer(f"places_{target}")

    def dense(self, target: str) -> Tensor:
        values, (first, last) = self.values[target], self.rows[target]
        shape = (last - first, self.in_features)
        if in_program():
            return self.by_cosines(target, shape)
        wide = values.to(torch.promote_types(values.dtype, torch.float32))  # no FFT in half precision
        spectrum = wide.new_zeros(math.prod(shape)).index_put((self.places(target),), wide)
        return (torch.fft.ifft2(spectrum.view(shape)).real * self.scale).to(values.dtype)

    def by_cosines(self, target: str, shape: tuple[int, int]) -> Tensor:
        """The same by two products of matrices, which every exporter has."""
        values, places = self.values[target], self.places(target)
        waves = (places // shape[1], places % shape[1])
        angles = [
            2 * math.pi / size * (torch.arange(size, device=wave.device)[:, None] * wave % size).to(values.dtype)
            for size, wave in zip(shape, waves, strict=True)
        ]
        real = (angles[0].cos() * values) @ angles[1].cos().t() - (angles[0].sin() * values) @ angles[1].sin().t()
        return real * (self.scale / math.prod(shape))


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class FourierFT(OnTargets):
    """``W <- W0 + s Re(IFFT2(S))``, S (out, in) zero but for n learned numbers at random places, the same in all.

    Args:
        frequencies: n of each target.
        scale: s.
        seed: Of the places.
        init: ``official`` starts with N(0, 1), not as the base; ``identity`` with zero.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint update; None means q and v, in a block
            without attention fc1 and fc2.
    """

    frequencies: int = 1000
    scale: float = 300.0
    seed: int = 777
    init: str = "official"
    targets: tuple[str, ...] | None = None

    category = "reparameter"
    paper = "Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, ICML 2024, Section 3, Equations 2 to 4"
    identity_at_start = False
    space = {"frequencies": [300, 1000, 3000], "scale": [100.0, 150.0, 300.0], "init": ["official", "identity"]}
    limits = {"seed": (0, 2**31 - 1)}
    mergeable = True

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_choice("init", STARTS)
        self.need_width("frequencies", host, [inputs * rows for inputs, rows in self.sizes(host)])

    def build(self, host: Host) -> None:
        start = "zero" if self.init == "identity" else "normal"
        for block, site, rows in self.linears(host):
            update = Spectrum(block.size(site), rows, self.frequencies, self.scale, self.seed, start)
            block.place(site, "parallel", update, site)

    def count(self, host: Host) -> int:
        return self.frequencies * len(list(self.sizes(host)))
