"""SPT: which weights are trained, and in which form, by their sensitivity, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import TARGETS, OnTargets
from vpeft.algorithms.unified.spt_budget import AllottedAdapter, AllottedLoRA, AllottedNorm, Budget, BudgetPart
from vpeft.core.backbones.block import Block, HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.recording import record_streams
from vpeft.core.backbones.sites.site import Site
from vpeft.core.backbones.sites.stated_linear import StatedLinear, in_order, weight_parts
from vpeft.core.contract.method import Method
from vpeft.core.contract.training import TrainingData
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

MATRICES = ("q", "k", "v", "proj", "fc1", "fc2")
#: A budget below this is in millions, from this on a count.
MILLIONS = 100.0


@dataclass(kw_only=True)
class SPT(OnTargets):
    """Weights are ranked by sensitivity, ``s = sum over batches of (dL/dw)^2`` of the frozen model with the head as it
    stands, and the most sensitive ones are trained: a matrix that has at least ``module / alpha`` of them gets a
    structured module, of another one the entries are trained; a vector (bias, norm) that has ``size / beta`` of them is
    trained whole, of another one the entries. ``W = W0 + scatter(delta)`` for entries: the same steps as with a masked
    gradient of W.

    Exactly as many numbers are trained as the budget says, class tokens included. The number of ranked weights is the
    largest that it suffices for, and what is left goes to the next entries; the authors sweep it in steps of 20,000 and
    take the nearest, with up to that many numbers more. Patch embedding, position table, what stands between stages and
    a norm's weights that are 0 are left alone. No weight decay reaches the trained numbers. The authors run all budgets
    and report the best by test accuracy.

    Args:
        budget: Trained numbers without the head: in millions, or from 100 on a count. None means a 200th of the
            matrices and vectors, 0.43 million on ViT-B.
        rank: r of the structured modules.
        alpha: The higher, the sooner a matrix gets a module.
        beta: The higher, the sooner a vector is trained whole.
        batches: How many the sensitivity is summed over (of 32 images in the authors' runs).
        drop: Dropout on the input of the structured modules, but beside proj.
        drop_path: Rate at which a structured module is left out for one image.
    """

    budget: float | None = None
    rank: int = 8
    alpha: float = 10.0
    beta: float = 5.0
    batches: int = 16
    drop: float = 0.1
    drop_path: float = 0.1

    category = "unified"
    paper = "Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning, ICCV 2023, Section 3"
    #: Budgets that small hosts have too; the authors' 0.2 to 1.0 million are for a ViT-B.
    space = {"budget": [20_000, 40_000, 60_000], "alpha": [5.0, 10.0]}
    limits = {"budget": (1e-6, 1e12), "alpha": (1, 1e6), "beta": (1, 1e6)}
    targets = None
    form = AllottedLoRA
    biased = False

    def settled(self, host: Host) -> Method:
        return self

    def targets_in(self, block: Block) -> tuple[str, ...]:
        return tuple(t for t in MATRICES if TARGETS[t][0] in block.sites)

    def module_size(self, target: str, inputs: int, rows: int) -> tuple[int, int]:
        """Inputs of a target's structured module, and the numbers in it."""
        return inputs, self.rank * (inputs + rows)

    def check(self, host: Host) -> None:
        most = sum(part.most for part, *_ in self.parts(host))
        if not 1 <= self.slots(host) <= most:
            raise UserError(
                f"{self.registered_name()}: budget={self.budget!r} is {self.count(host):,} numbers; of this "
                f"{host.registered_name()} from {1 + host.loose('cls_token'):,} to {most + host.loose('cls_token'):,} "
                "can be trained."
            )
        self.need_width("rank", host, [min(size) for size in self.sizes(host)])

    def trains(self, param: HostParam) -> bool:
        return param.role == "cls_token"

    def parts(self, host: Host) -> Iterator[tuple[BudgetPart, Callable[[Mapping[int, Tensor]], Tensor], Site, str]]:
        """Of every part, in order: itself, what reads its numbers from tensors by the parameters' ``id``, the site, and
        the target (``weight`` or ``bias`` of a norm; a bias of a target begins with ``b_``).
        """
        for block, name, rows in self.linears(host):
            site, inputs = block.sites[name], block.size(name)[0]
            for target, (first, last) in rows.items():
                reads, size = self.module_size(target, inputs, last - first)
                read = partial(read_weight, site.module, first, last)
                yield BudgetPart((last - first) * inputs, size, reads), read, site, target
                if all_biased(site.module, first, last):
                    read = partial(read_bias, site.module, first, last)
                    yield BudgetPart(last - first, 0, 1), read, site, f"b_{target}"
        for site in self.norms(host):
            for name, param in site.module.named_parameters(recurse=False):
                if name in ("weight", "bias"):
                    yield BudgetPart(param.numel(), 0, 1), partial(read_one, param), site, name

    @staticmethod
    def norms(host: Host) -> Iterator[Site]:
        """Sites of the norms in blocks and of the output norms."""
        for block in host.blocks:
            yield from (block.sites[name] for name, _ in block.linears("norm1", "norm2"))
        yield from (host.sites[name] for name in host.output_norms if name in host.modules)

    def build(self, host: Host) -> None:
        found = list(self.parts(host))
        numbers = {(id(site), what): number for number, (_, _, site, what) in enumerate(found)}
        budget = Budget([part for part, *_ in found], self.slots(host), self.rank, self.biased)
        host.keep(budget, "budget")
        for block, name, rows in self.linears(host):
            own = {t: (numbers[id(block.sites[name]), t], numbers.get((id(block.sites[name]), f"b_{t}"))) for t in rows}
            module = self.form(budget, name, block.size(name), rows, own, self.drop, self.drop_path)
            block.place(name, "parallel", module, name)
        blocks = {id(site): block for block in host.blocks for site in block.sites.values()}
        for site in self.norms(host):
            own = (numbers[id(site), "weight"], numbers.get((id(site), "bias")))
            module = AllottedNorm(budget, site.module, *own)
            host.place(site.name, "after", module, site.name.replace(".", "_"), blocks.get(id(site)))

    def learn(self, host: Host, data: TrainingData) -> None:
        found = list(self.parts(host))
        params = {id(p.param): p.param for p in host.parameters()}
        wanted = {}
        for _, read, _, _ in found:
            read(Touched(params, wanted))
        sums = {key: torch.zeros_like(p, dtype=torch.float32) for key, p in wanted.items()}
        flags = {key: p.requires_grad for key, p in wanted.items()}
        mode = host.backbone.training
        try:
            for param in wanted.values():
                param.requires_grad_(True)
            host.backbone.train()
            with torch.random.fork_rng(), record_streams(host, ()):
                torch.manual_seed(0)
                for (images, labels), _ in zip(data, range(self.batches), strict=False):
                    loss = F.cross_entropy(data.logits(images), labels)
                    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
                    for sum_, grad in zip(sums.values(), grads, strict=True):
                        if grad is not None:
                            sum_.add_(grad.float().square())
        finally:
            host.backbone.train(mode)
            for key, param in wanted.items():
                param.requires_grad_(flags[key])
        scores = [self.score(read(sums), site, what) for _, read, site, what in found]
        host.holder.peft[host.method_key]["budget"].allot(torch.cat(scores), self.alpha, self.beta)

    @staticmethod
    def score(sums: Tensor, site: Site, what: str) -> Tensor:
        """Sensitivities, -1 where nothing could be changed."""
        return sums.masked_fill(site.module.weight == 0, -1.0) if what == "weight" else sums

    def slots(self, host: Host) -> int:
        """Numbers to train but for class tokens."""
        return self.count(host) - host.loose("cls_token")

    def count(self, host: Host) -> int:
        if self.budget is None:
            return sum(part.size for part, *_ in self.parts(host)) // 200 + host.loose("cls_token")
        return round(self.budget * 1e6 if self.budget < MILLIONS else self.budget)


class Touched(dict):
    """Parameters by ``id`` that remembers which are read."""

    def __init__(self, params: Mapping[int, nn.Parameter], into: dict[int, nn.Parameter]) -> None:
        super().__init__(params)
        self.into = into

    def __getitem__(self, key: int) -> nn.Parameter:
        self.into[key] = super().__getitem__(key)
        return self.into[key]


def read_weight(module: nn.Module | StatedLinear, first: int, last: int, values: Mapping[int, Tensor]) -> Tensor:
    """Some rows of a linear's weight, flat."""
    whole = torch.cat([values[id(part)] for part in weight_parts(module)])
    return in_order(module, whole).flatten(1)[first:last].flatten()


def read_bias(module: nn.Module | StatedLinear, first: int, last: int, values: Mapping[int, Tensor]) -> Tensor:
    """Some rows of a linear's bias, zero where it has none."""
    if not isinstance(module, StatedLinear):
        return values[id(module.bias)][first:last]
    known = [None if part is None else values[id(part)] for part in module.biases]
    like = next(value for value in known if value is not None)
    parts = [
        like.new_zeros(rows) if value is None else value for value, rows in zip(known, module.bias_rows, strict=True)
    ]
    return module.arranged(torch.cat(parts))[first:last]


def read_one(param: nn.Parameter, values: Mapping[int, Tensor]) -> Tensor:
    """A whole vector."""
    return values[id(param)].flatten()


def all_biased(module: nn.Module | StatedLinear, first: int, last: int) -> bool:
    """Whether all these rows of a linear have a bias that the backbone reads."""
    biases = module.biases if isinstance(module, StatedLinear) else (module.bias,)
    if all(part is None for part in biases):
        return False
    ones = {id(part): torch.ones(part.shape, device="cpu") for part in biases if part is not None}
    mask = read_bias(module, 0, last, ones)[first:]
    start, end = getattr(module, "void", (0, 0))
    return bool(mask.all()) and not (start < last and first < end)


@PEFT_METHODS.register_module(name="SPT-LoRA")
@dataclass(kw_only=True)
class SPTLoRA(SPT):
    __doc__ = f"""The structured module of a matrix is LoRA, ``W <- W0 + B A``, A (r, in), B (rows, r). {SPT.__doc__}"""

    mergeable = True


@PEFT_METHODS.register_module(name="SPT-Adapter")
@dataclass(kw_only=True)
class SPTAdapter(SPT):
    __doc__ = f"""The structured module of a matrix is an adapter on its output, ``y <- y + W_up GELU(W_dn y + b_dn) +
    b_up``; beside proj it reads proj's input, as the released code does. {SPT.__doc__}"""

    form = AllottedAdapter
    biased = True

    def module_size(self, target: str, inputs: int, rows: int) -> tuple[int, int]:
        reads = inputs if target == "proj" else rows
        return reads, self.rank * (reads + rows) + self.rank + rows
