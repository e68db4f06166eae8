"""Which forward pass is it that runs here?

Every pass has a :class:`Flow` of its own. It begins with the patch embedding, however the backbone is called, and is
found again by

* the thread: each thread runs its own passes;
* the nesting: a pass that is run inside another, in a hook of the user's, leaves the outer one as it was;
* the tensor: a block that activation checkpointing runs again in ``backward``, maybe in another thread and after other
  passes, gets the pass in which this tensor entered it.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.multiprocessing.reductions import StorageWeakRef

from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.shares import Shares
from vpeft.errors import UserError

#: Attribute of an image backbone whose batches are the frames of clips (``vpeft.ClipBackbone``).
FOLDS_CLIPS = "vpeft_folds_clips"
#: Passes of one thread that may wait for one another at most; what is more has been left by an early stop.
WAITING = 4
#: Entries into blocks under re-entrant checkpointing that are remembered.
REENTRANT = 4096
_hooked = itertools.count()


class Mark:
    """How a pass entered a block: what a second run of the block must find.

    The state is that from before the block, so that whatever keeps the mark (a node of the graph behind the block)
    keeps no graph that it belongs to.
    """

    def __init__(self, flow: Flow, index: int, x: Tensor, storage: StorageWeakRef) -> None:
        self.grid, self.own_prefix, self.index, self.shape = flow.grid, flow.own_prefix, index, x.shape
        self.folded = flow.folded
        self.storage = storage
        self.reentrant = not torch.is_grad_enabled()
        self.state, self.drawn = _copied(flow.state), flow.drawn
        self.node = x.grad_fn

    def flow(self) -> Flow:
        """The pass as it was."""
        flow = Flow()
        flow.grid, flow.own_prefix, flow.state = self.grid, self.own_prefix, _copied(self.state)
        flow.folded, flow.drawn = self.folded, self.drawn
        return flow

    def keep(self, flow: Flow, y: Tensor) -> None:
        """Live as long as the graph of the block does: what it gave out, and what it hands on."""
        made = [y]
        for key, kept in flow.state.items():
            before = self.state.get(key, {})
            made += [value for index, value in kept.items() if before.get(index) is not value]
        earlier, self.node = {None, self.node, *(t.grad_fn for t in handed_on(self.state))}, None
        if self.reentrant and len(made) > 1:
            raise UserError(
                f"{', '.join(flow.state)} hands tensors from block to block, whose gradients re-entrant activation "
                "checkpointing loses: use torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
            )
        # What is handed on as it came belongs to the graph before: the mark's own state hangs on it, without an end.
        nodes = [t.grad_fn for t in handed_on({"": dict(enumerate(made))}) if t.grad_fn not in earlier]
        if not nodes:  # a group of blocks that is run again may begin with it: the next with a graph keeps it
            flow.waiting.append(self)
            return
        self.before, flow.waiting = flow.waiting, []
        for node in nodes:
            node.metadata["vpeft"] = self


class Again(NamedTuple):
    """A second run of some blocks in ``backward``: which, and with what."""

    run: tuple[Any, ...]
    flow: Flow


class Here(threading.local):
    """What one thread runs."""

    def __init__(self) -> None:
        self.flows = [Flow()]  # as long as after a pass: torch.compile guards its length
        self.flows[0].ended = True
        self.outer: list[list[Flow]] = []
        self.again: list[Again] = []
        self.folded = 0
        self.recorder: Callable[..., None] | None = None


class Passes:
    """The passes of one host.

    Attributes:
        enabled: False while the adapter is switched off, in all threads: every site then is its plain operation.
        last: Index of the last block.
        sample: Module and name of a parameter of the adapter, which shows its precision; None without any.
        base: The same of a parameter of the base.
        shares: Whose the samples of a batch are, where several adapters are in it.
        noisy: Something placed is noisy in training.
        read_later: What methods hand on is read behind the pass, by their losses.
        seed: Of the noise of the passes that begin from now on; None draws one for each.
        unheard: Told of each pass of training, where a method asks something of the loop
            (:mod:`vpeft.core.adaptation.training.unheard`).
        features: Gives what frozen blocks have made of an image before (:mod:`vpeft.core.adaptation.training`).
    """

    features: Any = None
    unheard: Any = None

    def __init__(self, last: int = 0) -> None:
        self.enabled = True
        self.last = last
        self.sample: tuple[nn.Module, str] | None = None
        self.base: tuple[nn.Module, str] | None = None
        self.shares: Shares | None = None
        self.noisy = self.read_later = False
        self.seed: int | None = None
        self.forget()

    def forget(self) -> None:
        """Lose all passes that ran."""
        self._here = Here()
        self._marks: WeakValueDictionary[tuple[int, int], Mark] = WeakValueDictionary()
        self._kept: deque[Mark] = deque(maxlen=REENTRANT)
        self.renew()

    def renew(self) -> None:
        """Called where hooks come or go: compiled code of before is not that of the model any more."""
        self._hooks = str(next(_hooked))

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: passes that run stay with the original."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    # The pass of this thread ----------------------------------------------------------------------------------------

    @property
    def current(self) -> Flow:
        """The pass that runs in this thread, or ran last; a fresh one where none has."""
        here = self._here
        if here.again and here.again[0].run == _run():
            return here.again[0].flow
        if not here.flows:
            here.flows = [Flow()]
        return here.flows[-1]

    def at(self, index: int | None, x: Any = None) -> Flow:
        """The pass that is inside block ``index``, or ``x`` comes from: the current one unless others ran since."""
        flow = self.current
        if len(self._here.flows) < 2 or (flow.index == index and flow.inside):
            return flow
        flows = [f for f in reversed(self._here.flows) if not f.ended]
        if index is None:
            came = _storage(x) if isinstance(x, Tensor) else None
            return self._choose(next((f for f in flows if f.left == came), flow))
        return self._choose(next((f for f in flows if f.index == index and f.inside), flow))

    @property
    def recorder(self) -> Callable[..., None] | None:
        """Is shown every block's attention as it is computed in this thread (:meth:`SiteBlock.site_core`)."""
        return self._here.recorder

    @recorder.setter
    def recorder(self, recorder: Callable[..., None] | None) -> None:
        self._here.recorder = recorder

    def open(self) -> None:
        """The backbone is called: what ran here waits."""
        here = self._here
        here.outer.append([flow for flow in here.flows if self._waits(flow)])
        here.flows = []

    def close(self) -> None:
        """The backbone is left, by an error too: what waited goes on. The last pass of all can still be looked at."""
        here = self._here
        if not here.outer:
            return
        waited = here.outer.pop()
        for flow in here.flows:
            flow.ended = True
        own = sorted(here.flows, key=lambda flow: flow.number)[:1]
        here.flows = waited if here.outer else [*waited, *own]

    def finish(self) -> None:
        """The backbone is left in a compiled pass: what blocks handed on would be outputs of its graph, and kept."""
        if not self.read_later:
            for flow in self._here.flows:
                flow.state, flow.shares = {}, {}

    def _guard(self) -> None:
        # torch.compile guards what is read, and no hooks of modules: a string is compared by its value.
        if not self._hooks:
            raise AssertionError

    @contextlib.contextmanager
    def clips(self, frames: int) -> Iterator[None]:
        """In this thread, the images of a batch are the frames of clips of so many, clip by clip."""
        here, before = self._here, self._here.folded
        here.folded = frames
        try:
            yield
        finally:
            here.folded = before

    @property
    def folded(self) -> int:
        """Frames of the clips that are run in this thread; 0 outside of :meth:`clips`."""
        return self._here.folded

    def begin(self, prefix: int, folded: int = 1) -> None:
        """Start a pass of a host whose stream has ``prefix`` tokens before the map, and ``folded`` frames a clip."""
        here, flow = self._here, Flow()
        flow.begin(prefix, folded)
        if torch.compiler.is_compiling():
            self._guard()
            here.flows[:] = [flow]  # what is assigned to a thread's attribute is lost where a graph ends
        elif recomputing():
            self.repeat(flow)
        else:
            flow.with_graph = torch.is_grad_enabled()
            flow.number = 1 + max((f.number for f in here.flows), default=0)
            here.flows = [*[f for f in here.flows if self._waits(f)][1 - WAITING :], flow]

    def enter(self, index: int, grid: tuple[int, ...] | None, x: Tensor) -> Mark | None:
        """Enter block ``index`` with the stream ``x``; gives what is to be handed to :meth:`leave`."""
        if torch.compiler.is_compiling():
            self._guard()
            self._enter(self.current, index, grid, x)
            return None
        if recomputing():
            self._enter_again(index, grid, x)
            return None
        flow = self.current
        if len(self._here.flows) > 1:
            before = [f for f in reversed(self._here.flows) if f.index < index and not f.ended]
            came = _storage(x)
            flow = self._choose(next((f for f in before if f.left == came), before[0] if before else flow))
        self._enter(flow, index, grid, x)
        return self._mark(flow, index, x) if flow.with_graph and not torch.jit.is_tracing() else None

    def _enter(self, flow: Flow, index: int, grid: tuple[int, ...] | None, x: Tensor) -> None:
        before = flow.index
        flow.enter(index, grid)
        self.look(flow, before, x)

    def look(self, flow: Flow, before: int, x: Tensor) -> None:
        """Called where a stream enters a block behind block ``before``, not where it is run again."""

    def leave(self, mark: Mark | None, y: Tensor) -> None:
        """Leave a block with its output."""
        if torch.compiler.is_compiling():
            return
        flow = self.current
        flow.inside, flow.left = False, _storage(y)
        if mark is not None:
            mark.keep(flow, y)

    def precision(self, x: Any) -> torch.dtype | None:
        """What a placed module wants its input cast to; None where nothing is to be cast."""
        if self.sample is None:
            return None
        x, dtype = x if isinstance(x, Tensor) else x[0], self.sample[0]._parameters[self.sample[1]].dtype
        if x.dtype is dtype:
            return None
        # Autocast does by itself, unless the base is half too: its norms take nothing else.
        return dtype if getattr(*self.base).dtype is x.dtype or not torch.is_autocast_enabled(x.device.type) else None

    def _waits(self, flow: Flow) -> bool:
        # While the backbone is being called, a pass is not over before the call is.
        return not flow.ended and (flow.index < self.last or bool(self._here.outer))

    def _choose(self, flow: Flow) -> Flow:
        flows = self._here.flows
        self._here.flows = [*(f for f in flows if f is not flow), flow]
        return flow

    # Second runs ----------------------------------------------------------------------------------------------------

    def _mark(self, flow: Flow, index: int, x: Tensor) -> Mark | None:
        try:
            storage = StorageWeakRef(x.untyped_storage())
        except (RuntimeError, NotImplementedError):  # tensors of torch.func have none
            return None
        mark = self._marks[index, storage.cdata] = Mark(flow, index, x, storage)
        if mark.reentrant:
            self._kept.append(mark)
        return mark

    def _enter_again(self, index: int, grid: tuple[int, ...] | None, x: Tensor) -> None:
        again = self._here.again
        mark = self._marks.get((index, _storage(x)))
        if mark is not None:
            flow = mark.flow()
        elif again and again[0].run == _run() and again[0].flow.index < index:
            flow = again[0].flow  # the next block of a group that is run again
        else:
            flow = self._only(index, x).flow()
        self.repeat(flow)
        flow.enter(index, grid)

    def _only(self, index: int, x: Tensor) -> Mark:
        marks = [mark for mark in self._marks.values() if mark.index == index and mark.shape == x.shape]
        alike = {(mark.grid, mark.own_prefix, mark.drawn, id(mark) if mark.state else None) for mark in marks}
        if len(alike) != 1:
            raise UserError(
                f"block {index} is run again in backward, and {len(marks)} passes could be the one: checkpoint single "
                "blocks or the whole backbone, and leave their inputs where they are."
            )
        return marks[0]

    def repeat(self, flow: Flow) -> None:
        """What runs in this backward pass for the node that is being differentiated belongs to the pass ``flow``."""
        again = self._here.again
        if not again:
            Variable._execution_engine.queue_callback(again.clear)
        again[:] = [Again(_run(), flow)]


def in_program() -> bool:
    """Whether this pass is being written down as a program: traced, compiled or exported."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.compiler.is_exporting()


def recomputing() -> bool:
    """Whether this is a forward pass inside a backward pass: checkpointing runs something again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _run() -> tuple[Any, ...]:
    """Which second run this is: all its blocks are run for one node of one backward pass."""
    node = torch._C._current_autograd_node()
    return (torch._C._current_graph_task_id(), None if node is None else (node.name(), node._sequence_nr()))


def handed_on(state: dict[str, dict[int, Any]]) -> Iterator[Tensor]:
    """The tensors of what methods hand on, some in tuples."""
    for kept in state.values():
        for value in kept.values():
            yield from (t for t in (value if isinstance(value, tuple) else (value,)) if isinstance(t, Tensor))


def _copied(state: dict[str, dict[int, Any]]) -> dict[str, dict[int, Any]]:
    return {key: dict(kept) for key, kept in state.items()}


def _storage(x: Tensor) -> int | None:
    try:
        return x.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):  # tensors of torch.func have none
        return None
