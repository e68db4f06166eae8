"""Frozen features, computed once: what frozen blocks make of an image is kept, and not made again.

What lies before the first trained tensor is a function of the image alone, as long as nothing in it is random. It is
kept by the bits of what enters the backbone, of the base and of the places that are kept: a random augmentation never
finds another image's. Where the numbers hang on which images are in a batch together, nothing is used.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.options.part import home
from vpeft.core.adaptation.training.frozen.feature_records import Records, bits, digests, mixed_batch
from vpeft.core.adaptation.training.frozen.skipped_embedding import SkippedEmbedding
from vpeft.core.backbones.host import is_peft_key
from vpeft.core.backbones.sites.passes import recomputing
from vpeft.core.backbones.sites.site import PLACEMENTS, Placed, Site
from vpeft.core.store import Store

#: Sites behind the last block: what is placed or trained there reads what is kept.
BEHIND = ("norm.", "pool_norm")
#: The stream that enters the first block, where something placed there reads it.
ENTERS = "enters"


class FrozenFeatures:
    """The kept features of one adapted backbone while it is trained.

    Args:
        adaptation: Its adaptation.
        store: Where the features are kept.
        say: Is told once what is kept, or why nothing is.

    Attributes:
        depth: So many blocks are not run again; None before the first training batch.
        used: How many images were not run again.
        asked: The digests of the images of each training pass, until who reads it clears it.
    """

    def __init__(self, adaptation: Adaptation, store: Store, say: Callable[[str], None]) -> None:
        self.adaptation, self.host, self.store, self.say = adaptation, adaptation.host, store, say
        self.records, self.entry = Records(store), SkippedEmbedding(self.host.embedding)
        self.depth: int | None = None
        self.used = 0
        self.asked: list[list[bytes]] = []
        self._plain = type(self.host.backbone)
        self._whole = False
        self._outputs: _pytree.TreeSpec | None = None
        #: What has been seen of the present pass, and what the present pass is given, by name.
        self._seen: dict[str, Tensor] | None = None
        self._given: Mapping[str, Tensor] | None = None
        #: Modules inside blocks that read what passes and leave it as it is, by the name of what they read.
        self._readers: dict[str, tuple[int, Placed]] = {}
        self._names: frozenset[str] = frozenset()
        #: How what is kept lay in memory, which backward passes may hang on.
        self._orders: dict[str, tuple[int, ...] | None] = {}
        self._base, self._cast = b"", b""
        #: Batches as they were made, and numbers of images for which other batches gave the same numbers.
        self._made: set[tuple[bytes, ...]] = set()
        self._sure: set[int] = set()
        self._agreed = False
        #: The last two batches that were computed: digests of their images, and the call.
        self._last: list[tuple[list[bytes], tuple[Any, Mapping[str, Any]]]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None  # a copy of the model computes for itself

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def start(self) -> None:
        """Answer the passes of the backbone from now on."""
        self.host.passes.features = self
        members = {"__module__": self._plain.__module__}
        self.host.backbone.__class__ = type(self._plain.__name__, (FromStore, self._plain), members)

    def stop(self) -> None:
        """Let the backbone compute everything itself again."""
        self._last = []
        if self.host.passes.features is self:
            self.host.passes.features = None
            self.host.backbone.__class__ = self._plain

    @property
    def running(self) -> bool:
        """Whether passes are answered."""
        return self.host.passes.features is self

    def settled(self, count: int) -> bool:
        """Whether batches of so many images have been compared with plain ones."""
        return count in self._sure

    def keeps(self, images: Sequence[bytes]) -> bool:
        """Whether the features of all these images are kept, by their digests."""
        with self.store.reading(self._keys(images)) as found:
            return None not in found

    def off(self, why: str) -> None:
        """Stop, and say why."""
        self.stop()
        self.say(f"frozen features are computed anew in every epoch: {why}.")

    # A pass -----------------------------------------------------------------------------------------------------------

    def run(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The answer of the backbone to a batch."""
        images = None if recomputing() or not self.host.passes.enabled else digests(args, kwargs)
        if images is None or (self.depth is None and not self.host.backbone.training):
            return forward(*args, **kwargs)
        kind = self._device.type
        self._cast = repr(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None).encode()
        if self.host.backbone.training:
            self.asked[1:] = [images]  # two are too many already
        if self.depth is None:
            return self._first(images, forward, args, kwargs)
        keys = self._keys(images)
        kept, there = self.records.read(keys, pinned=self._device.type == "cuda")
        if kept is None:
            if len(keys) not in self._sure and not self._compare_mixed(len(keys), forward):
                return forward(*args, **kwargs)
            out, seen = self._watched(forward, args, kwargs)
            if self._keep(keys, there, seen):
                self._last = [*self._last[-1:], (images, (args, kwargs))]
            return out
        if len(keys) in self._sure:
            self._last = []  # images come again: no batch of others is needed any more
        if len(keys) in self._sure or (tuple(keys) in self._made and self._agreed):
            self.used += len(keys)
            return self._answered(kept, forward, args, kwargs)
        out, seen = self._watched(forward, args, kwargs)
        self._compare(keys, out, seen, kept, forward, args, kwargs)
        return out

    def _compare(self, keys: list[bytes], out: Any, seen: Mapping[str, Tensor], kept: Any, *call: Any) -> None:
        """Use what is kept for batches of so many images, or no more of it."""
        if not self._agrees(out, seen, kept, *call):
            self.off("on this machine they hang on which images are in a batch together")
            return
        self._agreed = True
        if tuple(keys) not in self._made:  # in another batch they were the same
            self._sure.add(len(keys))

    def _compare_mixed(self, count: int, forward: Callable[..., Any]) -> bool:
        """Compare a batch of so many images of the last two, before any comes again; whether features are still kept.

        So the second epoch runs nothing twice.
        """
        images, call = mixed_batch(self._last, count) or ([], None)
        keys = self._keys(images)
        kept, _ = self.records.read(keys) if keys else (None, [])
        # The images may have been written over since, by whoever gives every batch in the same place.
        if kept is not None and tuple(keys) not in self._made and digests(*call) == images:
            with self._undone():
                out, seen = self._watched(forward, *call)
                self._compare(keys, out, seen, kept, forward, *call)
        return self.running

    def entered(self, block: nn.Module, x: Tensor) -> Tensor:
        """The stream that enters a block."""
        if block.peft_index == 0 and self._seen is not None:
            self._seen[ENTERS] = x
        return x if block.peft_index or self._given is None else self._given.get(ENTERS, x)

    def through(self, block: nn.Module, x: Tensor, given: Mapping[str, Any]) -> Tensor:
        """What the inside of a block makes of the stream."""
        index = block.peft_index
        if self._given is not None and index < self.depth:
            flow = self.host.passes.at(index, x)
            for name, (place, entry) in self._readers.items():
                if place == index:
                    entry.module(self._given[name], flow)
            return self._given.get(f"block{index}", x)
        y = block.site_inside(x, **given)
        if self._seen is not None:
            self._seen[f"block{index}"] = y
        return y

    def _answered(self, kept: Mapping[str, Tensor], forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        kept = {name: _laid(x.to(self._device, non_blocking=True), self._orders.get(name)) for name, x in kept.items()}
        if self._whole:
            return _pytree.tree_unflatten([kept[str(i)] for i in range(len(kept))], self._outputs)
        self._given = kept
        try:
            with self.entry.skipped(args, kwargs):
                return forward(*args, **kwargs)
        finally:
            self._given = None

    @property
    def _device(self) -> torch.device:
        return next(self.host.backbone.parameters()).device

    def _agrees(self, out: Any, seen: Mapping[str, Tensor], kept: Mapping[str, Tensor], *call: Any) -> bool:
        """Whether a pass that is given what is kept has the bits of the plain one, with or without gradients as it."""
        if not all(torch.equal(seen[name].cpu(), x) for name, x in kept.items()):
            return False
        with self._undone():
            torch.set_rng_state(self._random)
            again = self._answered(kept, *call)
        pairs = zip(_pytree.tree_leaves(out), _pytree.tree_leaves(again), strict=True)
        return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """A pass that draws nothing and changes no buffer, seen from behind it."""
        buffers = {name: value.clone() for name, value in self.host.backbone.named_buffers()}
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
        with torch.no_grad():
            for name, value in self.host.backbone.named_buffers():
                if not torch.equal(value, buffers[name]):  # a copy is a change for autograd, whatever it changes
                    value.copy_(buffers[name])

    def _watched(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """The answer of a plain pass, and what is to be kept of it; all that was seen, before that is known."""
        self._random = torch.get_rng_state()
        self._seen, hooks = (
            {},
            [
                self.entry.watch(args, kwargs),
                *(self._watch(name, entry.module) for name, (_, entry) in self._readers.items()),
            ],
        )
        try:
            out = forward(*args, **kwargs)
        finally:
            seen, self._seen = self._seen, None
            for hook in hooks:
                hook.remove()
        if self._whole:
            seen = {str(i): leaf for i, leaf in enumerate(_pytree.tree_leaves(out))}
        self._orders = {name: _order(x) for name, x in seen.items()}
        if self._whole:
            return out, seen
        return out, seen if self.depth is None else {name: seen[name] for name in self._names}

    def _watch(self, name: str, module: nn.Module) -> Any:
        def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if self._seen is not None and isinstance(output, Tensor) and output is inputs[0]:
                self._seen[name] = output

        return module.register_forward_hook(look)

    # What is kept -----------------------------------------------------------------------------------------------------

    def _first(self, images: list[bytes], forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The first batch, which shows how far the stream is a function of the image alone."""
        host, (depth, why) = self.host, self._frozen()
        placed = list(self._placed(host.blocks[:depth]))
        self._readers = {name: (index, entry) for name, index, _, entry in placed}
        out, seen = self._watched(forward, args, kwargs)
        for name, index, site, entry in placed:
            behind = site == "block" and entry.placement == "after"
            if (name not in seen or len(seen[name]) != len(images)) and index + behind < depth:
                depth, why = index + behind, f"{entry.key} changes what passes at {site} of block {index}"
        self._readers = {
            name: self._readers[name]
            for name in seen  # in the order of the pass
            if name in self._readers and self._readers[name][0] < depth and ".block." not in name
        }
        leaves, self._outputs = _pytree.tree_flatten(out)
        trained = any(p.requires_grad for p in host.backbone.parameters())
        rows = all(isinstance(leaf, Tensor) and len(leaf) == len(images) for leaf in leaves)
        self._whole = depth == len(host.blocks) and not trained and rows
        self.depth = depth
        if not depth:
            self.off(why)
            return out
        self._names = frozenset() if self._whole else frozenset({*self._readers, *self._read_behind(depth)})
        if self._names and _running(host.blocks[0].sites["block"]):
            self._names |= {ENTERS}
        if self._whole:
            seen = {str(i): leaf for i, leaf in enumerate(leaves)}
            self._orders = {name: _order(x) for name, x in seen.items()}
        self._base = self._digest()
        what = "the whole backbone is" if self._whole else f"{depth} of {len(host.blocks)} blocks are"
        self.say(f"frozen features: {what} computed once for each image" + (f" ({why})." if why else "."))
        seen = {name: x for name, x in seen.items() if self._whole or name in self._names}
        keys = self._keys(images)
        kept, there = self.records.read(keys)
        if kept is None:
            if self._keep(keys, there, seen):
                self._last = [(images, (args, kwargs))]
        else:
            self._compare(keys, out, seen, kept, forward, args, kwargs)
        return out

    def _placed(self, blocks: Sequence[Any]) -> Iterator[tuple[str, int, str, Placed]]:
        for block in blocks:
            for site_name, site in block.sites.items():
                for number, entry in enumerate(_running(site)):
                    yield f"{block.index}.{site_name}.{number}", block.index, site_name, entry

    def _frozen(self) -> tuple[int, str]:
        """How many blocks come before the first that is trained, changed from outside or random, and what ends them."""
        host, ends = self.host, [(len(self.host.blocks), "")]
        for p in host.parameters():
            if p.param.requires_grad and not (p.site or "").startswith(BEHIND):
                ends.append((home(host, p.block, p.site), f"{p.name} is trained"))
        for name, site in host.sites.items():
            if not name.startswith(BEHIND) and _running(site):
                ends.append((home(host, None, name), f"{_running(site)[0].key} stands at {name}"))
        for block in host.blocks:
            base = (module for name, module in block.module.named_modules() if not is_peft_key(name))
            if noise := next(filter(None, map(_noise, base)), None):
                ends.append((block.index, f"{noise} in block {block.index}"))
        return min(ends, key=lambda end: end[0])

    def _read_behind(self, depth: int) -> Iterator[str]:
        """Blocks whose output is read by what is placed, by an output norm, or by the first block that is run."""
        blocks = self.host.blocks
        norms = {self.host.last_block(name).index for name in self.host.sites if name.startswith("norm.")}
        for block in blocks[:depth]:
            after = blocks[block.index + 1 : block.index + 2]
            reads = any(e.placement == "after" for e in _running(block.sites["block"]))
            reads = reads or any(e.placement == "before" for one in after for e in _running(one.sites["block"]))
            last = block.index == depth - 1 or (after and after[0].stage != block.stage)
            if reads or last or block.index in norms:
                yield f"block{block.index}"

    def _keep(self, keys: list[bytes], there: Sequence[bool], seen: Mapping[str, Tensor]) -> bool:
        """Keep what was seen of a batch; whether all of it is kept."""
        rows = {
            key: {name: x[i] for name, x in seen.items()}
            for i, (key, is_there) in enumerate(zip(keys, there, strict=True))
            if not is_there
        }
        was_full = self.store.full
        if kept := self.records.keep(rows):
            self._made.add(tuple(keys))
        elif not was_full:
            self.say(f"frozen features: the limit of {self.store.limit:,} bytes is reached; the rest is computed anew.")
        return kept

    def _keys(self, images: Sequence[bytes]) -> list[bytes]:
        return [hashlib.blake2b(self._base + self._cast + one, digest_size=24).digest() for one in images]

    def _digest(self) -> bytes:
        """Of what the numbers hang on beside the image."""
        machine = (torch.__version__, self._device.type, torch.get_num_threads(), torch.backends.mkldnn.enabled)
        what = (self.host.registered_name(), self._whole, sorted(self._names), machine)
        base = {name: x for name, x in self.host.backbone.state_dict().items() if not is_peft_key(name)}
        own = hashlib.blake2b(repr(what).encode())
        for name, value in sorted(base.items()):
            own.update(name.encode())
            own.update(bits(value))
        return own.digest()


class FromStore:
    """Mixin of a backbone whose passes are answered."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        features, plain = self.peft_adaptation.host.passes.features, super().forward
        return plain(*args, **kwargs) if features is None else features.run(plain, args, kwargs)


def _order(x: Tensor) -> tuple[int, ...] | None:
    """The dimensions of a tensor from the slowest to the fastest; None where they stand in order."""
    return None if x.is_contiguous() else tuple(sorted(range(x.dim()), key=lambda d: -x.stride(d)))


def _laid(x: Tensor, order: tuple[int, ...] | None) -> Tensor:
    """A tensor laid out in memory in an order of its dimensions."""
    if order is None:
        return x
    return x.permute(order).contiguous().permute(sorted(range(len(order)), key=order.__getitem__))


def _running(site: Site) -> list[Placed]:
    return site.placed(*PLACEMENTS)


def _noise(module: nn.Module) -> str | None:
    """What is random in a module as it stands, or hangs on the other images."""
    if not module.training:
        return None
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "a batch norm"
    chance = getattr(module, "drop_prob", getattr(module, "p", 0.0))
    return type(module).__name__ if isinstance(chance, float) and chance > 0 else None
