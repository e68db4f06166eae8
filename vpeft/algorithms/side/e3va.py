"""E3VA: a parallel adapter highway."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from vpeft.algorithms.adapter.shared.lorand import LoRandAdapter
from vpeft.algorithms.modules.stateless import Stateless
from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.stated_linear import bias_size
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


class Highway(LoRandAdapter):
    """``H <- H + (y + Delta(y))`` with a branch's output y; the stream itself goes on untouched.

    Args:
        key: Where H is kept: the highway as it leaves the branch of a block.
        branch: ``attn`` or ``mlp``.
        source: Where it comes from: the branch before, or ``enter``.
        size: C, hidden width, alpha and beta.
        shared_kernel: As of :class:`LoRandAdapter`.
    """

    def __init__(
        self, key: str, branch: str, source: str, size: tuple[int, int, int, int], shared_kernel: bool
    ) -> None:
        super().__init__(size, shared_kernel, identity=True, residual=True)
        self.key, self.branch, self.source = key, branch, source

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        highway = flow.state[f"{self.key}.{self.source}"][flow.index]
        flow.state.setdefault(f"{self.key}.size", {})[flow.index] = flow.grid  # a branch may have pooled its map
        flow.state.setdefault(f"{self.key}.{self.branch}", {})[flow.index] = highway + super().forward(y)
        return y


class Enter(Stateless):
    """Brings the highway into a block: the embedded tokens, or what left the block before, merged between stages."""

    def __init__(self, key: str, host: Host, merge: int | None) -> None:
        super().__init__()
        self.key, self.host, self.merge = key, host, merge

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        highway = x
        if flow.index:
            highway = flow.state[f"{self.key}.mlp"][flow.index - 1]
            if self.merge is not None:
                grid = flow.state[f"{self.key}.size"][flow.index - 1]
                downsample_map = partial(self.host.downsample_map, self.merge, grid=grid)
                highway = self.host.run_base(downsample_map, highway)
        flow.state.setdefault(f"{self.key}.enter", {})[flow.index] = highway
        return x


class Leave(Stateless):
    """Gives the highway to an output norm instead of the stream."""

    def __init__(self, key: str, block: int) -> None:
        super().__init__()
        self.key, self.block = key, block

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        return flow.state[f"{self.key}.mlp"][self.block].view(x.shape)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class E3VA(Method):
    """A highway H beside the frozen backbone: it starts as the patch embedding, and in every block
    ``H <- H + (a + Delta_1(a))``, ``H <- H + (f + Delta_2(f))`` with the outputs a, f of the frozen branches and
    LoRand's bottleneck Delta without its skip; between stages it passes the frozen patch merging, and the output norms
    read H.

    Args:
        alpha: Terms of each synthesised matrix.
        beta: Rank of a term.
        reduction: The hidden width is C over this.
        shared_kernel: As LoRand's, whose counts the published ones are.
        train_norms: Train the output norms too, as for dense heads.
    """

    alpha: int = 2
    beta: int = 8
    reduction: int = 2
    shared_kernel: bool = True
    train_norms: bool = False

    category = "side"
    paper = (
        "Parameter-efficient is not sufficient: Exploring Parameter, Memory, and Time Efficient Adapter Tuning for "
        "Dense Predictions, 2306.09729"
    )
    space = {"alpha": [1, 2, 4], "beta": [4, 8, 16], "train_norms": [False, True]}
    memory = "M0"
    needs_all_blocks = "its highway is the sum of the branches of all blocks"
    identity_at_start = "rounding"  # the branches are added up here, in another order where units run in parallel
    base_eval = True
    unverified = (
        "A reconstruction from abstract, first page and a figure's caption; no code is public. The bottleneck is "
        "LoRand's because the published counts fit it; that Delta starts at zero is our choice."
    )

    def check(self, host: Host) -> None:
        self.need_divisor("reduction", host)
        self.need_output_norm(host)
        if any(block.kind.frames_apart for block in host.blocks):
            raise UserError(
                f"{self.registered_name()}: attention of {host.registered_name()} is in each frame apart, and the "
                "highway is one of the whole clip."
            )
        if any(block.dim_in != block.dim for block in host.blocks):
            raise UserError(
                f"{self.registered_name()}'s highway is as wide as the stream, and blocks of {host.registered_name()} "
                "change its width inside."
            )
        if host.adds_between:
            raise UserError(
                f"{self.registered_name()}'s highway is the sum of the branches; this {host.registered_name()} adds "
                "something else between its blocks (position embeddings, convolutions, norms)."
            )
        if len(host.output_norms) < len(host.outputs):
            raise UserError(
                f"{self.registered_name()}'s highway leaves by the output norms; this {host.registered_name()} gives "
                f"the outputs of the blocks {', '.join(map(str, host.outputs))} and has not one norm for each: let it "
                "give the last alone."
            )

    def trains(self, param: HostParam) -> bool:
        return self.train_norms and param.site is not None and param.site.startswith("norm.")

    def build(self, host: Host) -> None:
        key, stage = host.method_key, host.blocks[0].stage
        for block in host.blocks:
            merge = block.stage if block.stage != stage else None
            stage = block.stage
            block.place("block", "before", Enter(key, host, merge), "enter")
            for source, branch in zip(("enter", *block.units), block.units, strict=False):
                size = (block.dim, block.dim // self.reduction, self.alpha, self.beta)
                module = Highway(key, branch, source, size, self.shared_kernel)
                block.place(f"{branch}_branch", "late", module, branch)
        for name in host.output_norms:
            host.place(name, "before", Leave(key, host.last_block(name).index), name.replace(".", "_"))

    def count(self, host: Host) -> int:
        size, own = LoRandAdapter.count, (self.alpha, self.beta, self.shared_kernel)
        trained = [host.modules[name] for name in host.output_norms if name in host.modules] if self.train_norms else []
        norms = sum(norm.weight.numel() + bias_size(norm) for norm in trained)
        sizes = (len(b.units) * size(b.dim, b.dim // self.reduction, *own) for b in host.blocks)
        return norms + sum(sizes)
