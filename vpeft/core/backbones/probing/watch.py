"""What a network is seen to call in a pass.

A pass runs in eval mode and, where the network lets it, without computing (on fake tensors); another one in train mode
shows what is bypassed there alone. Every operation that takes a parameter is watched, and what comes out is traced back
through autograd's graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, is_dataclass
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from vpeft.core.backbones.probing.at_rest import at_rest
from vpeft.core.backbones.probing.memory import Memory
from vpeft.core.backbones.probing.traceless import traceless
from vpeft.core.backbones.wrappers import named_modules

LINEAR, CONV, NORM = KINDS = ("linear", "conv", "norm")
#: Operations that a site can be: kind, and where in the arguments the weight stands. The bias is the next.
_OPERATIONS: dict[Callable[..., Any], tuple[str, int]] = {
    F.linear: (LINEAR, 1),
    F.conv1d: (CONV, 1),
    F.conv2d: (CONV, 1),
    F.conv3d: (CONV, 1),
    F.layer_norm: (NORM, 2),
    F.group_norm: (NORM, 2),
    F.batch_norm: (NORM, 3),
}
#: So many passes in train mode are tried before a module counts as never called there.
PASSES = 3
_NO_KERNEL = "torch.backends.mha.set_fastpath_enabled(False)"
#: Modules that may be sites, or are named where they are none.
TYPES = (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class Stamp(NamedTuple):
    """A tensor, and how often it had been written into."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Any) -> Stamp | None:
        return cls(tensor, tensor._version) if isinstance(tensor, Tensor) else None

    def still(self, tensor: Any) -> bool:
        """Whether ``tensor`` is this one as it was."""
        return tensor is self.tensor and tensor._version == self.version


@dataclass
class Call:
    """A module that is being called: its name, its first argument, and the uses of parameters inside it alone."""

    name: str
    module: nn.Module
    x: Stamp | None
    used: list[tuple[str, Stamp, Stamp]] = field(default_factory=list)


@dataclass
class Seen:
    """What a pass has shown.

    Attributes:
        kinds: Kind of each module whose call is one linear, convolution or norm and nothing else, by name.
        reasons: Why each other module of these types is none, by name.
        channels_first: Modules of ``kinds`` whose outputs are maps ``(B, C, ...)``.
        unused: Names of parameters on which the output does not depend.
        order: Names of all modules in the order of their first calls.
        reentrant: Something is checkpointed re-entrantly, so that no gradient is computed where what enters it asks for
            none.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    channels_first: set[str] = field(default_factory=set)
    unused: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=list)
    reentrant: bool = False


class Watch(TorchFunctionMode):
    """Watches the calls of a network's modules, and every operation on its parameters."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.names = {module: name for name, module in named_modules(network)}
        self.owners: dict[int, list[tuple[str, str]]] = {}
        for module, name in self.names.items():
            for key, param in module._parameters.items():
                if param is not None:
                    self.owners.setdefault(id(param), []).append((name, key))
        self.memory = Memory(tensor for module in self.names for tensor in module._parameters.values())
        self.reentrant = False
        self.stack: list[Call] = []
        self.order: dict[str, None] = {}
        self.reasons: dict[str, str] = {}
        self.found: dict[str, tuple[str, bool]] = {}
        self.output: Any = None  # stays so where the network is reached otherwise than by its call

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.stack and any(isinstance(one, Tensor) for one in (out if isinstance(out, (tuple, list)) else (out,))):
            self._note(func, args, kwargs or {}, out)
        return out

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        call, given = self.stack[-1], list(tensors((args, kwargs), depth=2))
        owned = [tensor for tensor in given if id(tensor) in self.owners]
        for tensor in given:
            for owner, key in [] if id(tensor) in self.owners else self._held(tensor):
                self.reasons.setdefault(owner, f"the memory of its {key} is used by {_name(func)} in {_where(call)}")
        if not owned:
            return
        kind, at = _OPERATIONS.get(func, ("", 0))
        own = call.module._parameters
        if kind and own.get("weight") is not None:
            weight, bias = _argument(args, kwargs, at, "weight"), _argument(args, kwargs, at + 1, "bias")
            if weight is own["weight"] and bias is own.get("bias"):
                call.used.append((kind, Stamp.of(_argument(args, kwargs, 0, "input")), Stamp.of(out)))
                return
        for tensor in owned:
            for owner, key in self.owners[id(tensor)]:
                self.reasons.setdefault(owner, f"its {key} is used by {_name(func)} in {_where(call)}")

    def _held(self, tensor: Tensor) -> Iterator[tuple[str, str]]:
        """Owners of the parameters in whose memory a tensor lies that is none of them."""
        for param in self.memory.overlapping(tensor):
            yield from self.owners[id(param)]

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module is called."""
        self.order.setdefault(self.names[module])
        self.stack.append(Call(self.names[module], module, Stamp.of(args[0]) if args else None))

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A module has given its output, or has failed."""
        call = self.stack.pop()
        if module is self.network:
            self.output = output
        if not isinstance(module, TYPES):
            return
        reason = _why_not(call, output)
        if reason:
            self.reasons.setdefault(call.name, reason)
        else:
            ((kind, _, _),) = call.used
            first = kind == CONV or (not isinstance(module, nn.LayerNorm) and kind == NORM)
            self.found[call.name] = kind, first and output.dim() > 2

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the context, calls and operations are watched."""
        hooks = [module.register_forward_pre_hook(self.enter) for module in self.names]
        hooks += [module.register_forward_hook(self.leave, always_call=True) for module in self.names]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()


def _why_not(call: Call, output: Any) -> str:
    """Why a call is not one plain operation of a kind, on the module's own input and giving its own output."""
    if call.x is None:
        return "it is not called with a tensor alone"
    if len(call.used) != 1:
        return "its call uses its weight otherwise than in one linear, convolution or norm"
    kind, x, y = call.used[0]
    weight = call.module.weight
    own = call.x.still(x.tensor) and x.still(call.x.tensor)
    if not own and not (kind == CONV and _pads_by_mode(call.module)):
        return "its call changes its input"
    if not y.still(output):
        return "its call changes its output"
    if output.dim() < 2 or (kind == CONV and output.dim() != weight.dim()):
        return "it is called without a batch"
    return "its weight is not per channel" if kind == NORM and weight.dim() != 1 else ""


def _pads_by_mode(module: nn.Module) -> bool:
    """Whether one of torch's own convolutions pads its input by reflection or the like, and does nothing else."""
    own = type(module).forward, getattr(type(module), "_conv_forward", None)
    plain = [(kind.forward, kind._conv_forward) for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)]
    return own in plain and module.padding_mode != "zeros"


def watch(model: nn.Module, network: nn.Module, call: Callable[[], Any]) -> Seen:
    """Run ``call``, which calls ``network`` (``model`` or a part of it), and say what was seen inside.

    Nothing of the model is changed, not the state of random numbers either.

    Raises:
        Exception: Whatever the network raises.
    """
    watched, fake = Watch(network), not _on_meta(network)
    with at_rest(model):
        try:
            outputs = _run(watched, call, fake)
        except Exception:
            watched, fake = Watch(network), False
            outputs = _run(watched, call, fake)
        reached = {id(leaf) for leaf in leaves(outputs)}
    seen = _seen(watched, reached)
    _look_at_training(seen, model, network, call, fake)
    return seen


def _look_at_training(seen: Seen, model: nn.Module, network: nn.Module, call: Callable[[], Any], fake: bool) -> None:
    """Take out of what was seen in eval mode what does not act in train mode, where a pass runs there.

    What is left out by chance, as layers are that are dropped whole, is in one of some passes.
    """
    idle: dict[str, str] = dict.fromkeys(seen.kinds, "")
    asleep: set[str] = set()
    for number in range(PASSES):
        watched = Watch(network)
        with at_rest(model, training=True, seed=number):
            try:
                outputs = _run(watched, call, fake)
            except Exception:
                return
            trained = _seen(watched, {id(leaf) for leaf in leaves(outputs)})
        seen.reentrant |= watched.reentrant
        asleep = trained.unused & asleep if number else trained.unused
        seen.reasons |= {name: f"in train mode, {why}" for name, why in watched.reasons.items() if name in seen.kinds}
        idle = {name: trained.reasons[name] for name in idle if name in trained.reasons}
        if not idle and not asleep - seen.unused:
            break
    seen.reasons |= {name: f"in train mode, {why}" for name, why in idle.items() if name not in seen.reasons}
    seen.unused |= asleep
    for name in seen.reasons.keys() & seen.kinds.keys():
        del seen.kinds[name]


def _run(watched: Watch, call: Callable[[], Any], fake: bool) -> list[Tensor]:
    with ExitStack() as stack:
        stack.enter_context(traceless(watched.network))
        if fake:
            stack.enter_context(mock.patch.object(logging.getLogger(FakeTensorMode.__module__), "disabled", True))
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(mock.patch.object(torch.utils.checkpoint, "CheckpointFunction", _NotCheckpointed(watched)))
        stack.enter_context(watched.watching())
        given = call()
    return list(tensors(given if watched.output is None else watched.output))


class _NotCheckpointed:
    """In the place of re-entrant checkpointing, which hides from autograd's graph what it runs."""

    def __init__(self, watched: Watch) -> None:
        self.watched = watched

    def apply(self, function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        self.watched.reentrant = True
        return function(*args)


def _seen(watched: Watch, reached: set[int]) -> Seen:
    seen = Seen(order=list(watched.order), reentrant=watched.reentrant)
    # In eval mode torch runs such a layer whole, but not where a module in it has a hook.
    layers = (name for m, name in watched.names.items() if isinstance(m, nn.TransformerEncoderLayer))
    fused = tuple(f"{name}." if name else "" for name in layers) if torch.backends.mha.get_fastpath_enabled() else ()
    for module, name in watched.names.items():
        params = {key: param for key, param in module._parameters.items() if param is not None}
        dot = f"{name}." if name else ""
        seen.unused |= {dot + key for key, param in params.items() if id(param) not in reached}
        if not isinstance(module, TYPES) or "weight" not in params:
            continue
        reason = watched.reasons.get(name, "")
        if not reason and name.startswith(fused):
            reason = f"torch runs its nn.TransformerEncoderLayer as one kernel unless {_NO_KERNEL}"
        if not reason and any(len(watched.owners[id(param)]) > 1 for param in params.values()):
            reason = "it shares a parameter with another module"
        elif not reason and any(watched.memory.overlapping(param) for param in params.values()):
            reason = "it shares the memory of a parameter with another one"
        elif not reason and name not in watched.found:
            reason = "it is never called"
        elif not reason and id(params["weight"]) not in reached:
            reason = "nothing that comes out depends on it"
        if reason:
            seen.reasons[name] = reason
        else:
            seen.kinds[name], first = watched.found[name]
            seen.channels_first |= {name} if first else set()
    return seen


def leaves(outputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """The leaves of autograd's graph on which outputs depend: the parameters that act."""
    nodes, seen = [output.grad_fn for output in outputs if output.grad_fn is not None], set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        nodes += [following for following, _ in node.next_functions if following is not None]


def tensors(value: Any, depth: int = 8) -> Iterator[Tensor]:
    """The tensors in nested containers and data classes."""
    if isinstance(value, Tensor):
        yield value
    elif depth > 0:
        if isinstance(value, Mapping):
            value = value.values()
        elif is_dataclass(value) and not isinstance(value, type):
            value = vars(value).values()
        elif not isinstance(value, (tuple, list)):
            return
        for one in value:
            yield from tensors(one, depth - 1)


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], at: int, name: str) -> Any:
    return args[at] if len(args) > at else kwargs.get(name)


def _where(call: Call) -> str:
    return call.name or "the network"


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "an operation")
    return getattr(func.__self__, "__name__", name) if name == "__get__" else name


def _on_meta(network: nn.Module) -> bool:
    return any(param.is_meta for param in network.parameters())
