"""The life of an adapter on a backbone: attach, switch off, merge, take apart.

An :class:`Adaptation` lives on the backbone as ``backbone.peft_adaptation`` and knows methods only by the contract of
:class:`vpeft.core.contract.method.Method`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.base_weights import GIVEN, RANDOM, BaseWeights
from vpeft.core.adaptation.folding import fold_site
from vpeft.core.adaptation.identity import Identity, check_count, refuse_frozen_stages, refuse_unread_blocks
from vpeft.core.adaptation.options.on_host import OnHost
from vpeft.core.adaptation.options.packed import reset
from vpeft.core.adaptation.storing.fit import check_tensors
from vpeft.core.adaptation.values.base_dtype import BaseDtype, LoweredBase
from vpeft.core.adaptation.values.heads import Heads
from vpeft.core.adaptation.values.merged_state import MERGED, put_merged, take_merged
from vpeft.core.adaptation.values.precision import adapter_dtype, sample
from vpeft.core.adaptation.values.written import before_merging, places_of, write_values
from vpeft.core.adaptation.wrappers import plain_keys, state_dict
from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import PEFT_KEY, Host, is_peft_key
from vpeft.core.backbones.kept.masters import as_held
from vpeft.core.backbones.roles import keepers
from vpeft.core.contract.build import keyed
from vpeft.core.contract.training import TrainingData
from vpeft.errors import UserError

if TYPE_CHECKING:
    from vpeft.core.contract.method import Method


class Adaptation:
    """Methods attached to a host.

    Attributes:
        host: The host.
        methods: Methods by their keys, in order.
        on_host: What each of them is on this host, by the same keys.
        params: The parameters of the base, until the methods are placed.
        originals: Values, from before any training, of the existing parameters that the methods train, by key.
        merged: Weights as they were before :meth:`merge`, by key; empty while nothing is merged.
        heads: The head that the backbone holds inside, as the base has it.
        dtype: Precision that the adapter was asked for; None means the base's, but float32 on a half base.
        base_dtype: Precision that the frozen base was asked to be kept in; None leaves it as it is.
        lowered: The base that is kept so.
        several: The named adapters of the base that it is one of (:mod:`.several.adapters`); None without names.
        blend: What answers in the place of one adapter, where no single one does.
    """

    def __init__(
        self,
        host: Host,
        methods: Sequence[Method],
        dtype: torch.dtype | None = None,
        base_dtype: BaseDtype | None = None,
    ) -> None:
        self.host = host
        self.heads = Heads(host)
        self.dtype, self.base_dtype = dtype, base_dtype
        self.lowered: LoweredBase | None = None
        self.on_host = {key: OnHost(method, host, key) for key, method in keyed(methods).items()}
        self.methods = {key: one.method for key, one in self.on_host.items()}
        self.params = list(host.parameters())
        self.flags = {p.name: p.param.requires_grad for p in self.params}
        self.originals: dict[str, Tensor] = {}
        self.merged: dict[str, Tensor] = {}
        self.trained: list[str] = []
        self.several: Any = None
        self.blend = ""
        self.base = BaseWeights(self)
        self.frozen_eval = all(method.base_eval for method in methods)

    # Attaching ------------------------------------------------------------------------------------------------------

    def place(self) -> None:
        """Build and place the methods, freeze the base, start training what is to be trained."""
        host = self.host
        if self.methods:
            refuse_frozen_stages(host)
        params, self.params = self.params, []
        self.identity = Identity(host, params)
        try:
            for method in self.on_host.values():
                method.check(params)
                if (width := method.build()) is not None:
                    host.resize_head(width)
            self.trained = [p.name for p in params if any(m.trains(p) for m in self.on_host.values())]
            check_count(self.on_host, self.peft_items(), params)
            refuse_unread_blocks(host, [p for p in params if p.name in self.trained])
            if self.base_dtype is not None:
                self.lowered = LoweredBase(host, params, self.trained, self.base_dtype)
        except Exception:  # a method that cannot be attached leaves the model as it was
            host.clear() if host.hooks else host.release()
            raise
        device, dtype = next(host.backbone.parameters()).device, adapter_dtype(params, self.dtype)
        for module in self.peft_modules():
            module.to(device=device, dtype=dtype).train(host.backbone.training)
            if self.lowered and getattr(module, "starts_from_base", False):
                reset(module)
        host.passes.sample = sample(self.peft_modules())
        trained = set(self.trained)
        for p in params:
            p.param.requires_grad_(p.name in trained)
        host.adopt()
        if self.lowered is not None:
            self.lowered.start()
        host.backbone.peft_adaptation = self
        self.snapshot()
        self.base.start(GIVEN)
        self.set_mode(host.backbone.training)

    def peft_items(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module that a method has registered, with the method's key."""
        for owner in self.host.owners:
            for key, modules in owner._modules.get(PEFT_KEY, {}).items():
                yield from ((key, module) for module in modules.values())

    def peft_modules(self) -> Iterator[nn.Module]:
        """The same without the keys."""
        return (module for _, module in self.peft_items())

    def trained_parameters(self) -> Iterator[HostParam]:
        """The existing parameters of the base that the methods train."""
        names = set(self.trained)
        return (p for p in (self.host.parameters() if names else ()) if p.name in names)

    def check(self) -> None:
        """Make sure that everything still is what it was when the methods were attached (:mod:`.identity`).

        Raises:
            UserError: Something was replaced, wrapped, quantised, tied, resized or freed since; or no single adapter
                answers.
        """
        if self.blend:
            raise UserError(f"{self.blend}: vpeft.use(model, name) first.")
        self.identity.check(self.trained, self.peft_modules())

    def check_trained(self) -> None:
        """Make sure that what the methods train still asks for a gradient, and nothing else of the base does.

        Raises:
            UserError: Something froze or freed parameters after attaching (``frozen_stages`` does, in train mode), or
                the adapter is merged.
        """
        if self.merged:
            raise UserError("the adapter is merged into the weights: vpeft.unmerge(model) before training.")
        for p in self.host.parameters():
            if p.param.requires_grad != (p.name in self.trained):
                state = "trained" if p.param.requires_grad else "frozen"
                raise UserError(
                    f"{p.name} is {state} against the method: leave frozen_stages of the backbone at its default."
                )
        for module in self.peft_modules():
            if not all(param.requires_grad for param in module.parameters()):
                raise UserError("a PEFT parameter was frozen after attaching: leave frozen_stages at its default.")

    @property
    def waits_for_selection(self) -> bool:
        """Whether something has yet to be selected from the training data: a module's buffer ``learned`` is False."""
        return any(not module.learned for module in self.peft_modules() if hasattr(module, "learned"))

    def learn(self, data: TrainingData) -> None:
        """Let every method select from the training data what it has to."""
        self.check()
        self.base.need("what is selected")
        for method in self.on_host.values():
            method.learn(data)

    def count(self) -> int:
        """Trainable parameters without the head, by the methods' formulas; what two of them train counts twice."""
        return sum(method.count() for method in self.on_host.values())

    def snapshot(self) -> None:
        """Remember the present values of the existing parameters that are trained, and of the head, as the base's."""
        params = {p.name: p.param.detach() for p in self.trained_parameters()}
        # On the meta device there are no values to remember.
        self.originals = {name: p if p.is_meta else p.to("cpu", copy=True) for name, p in params.items()}
        self.heads.remember()

    def initialise(self, plain: Callable[..., None], *args, **kwargs) -> None:
        """Initialise the base by ``plain`` (or from its pretrained file), then give every PEFT module its start.

        The order matters: initialisers of a model run over all its linears, adapters included, and would undo the
        start that the method is defined by.
        """
        with as_held():
            self.base.initialise(plain, *args, **kwargs)
        for module in self.peft_modules():
            reset(module)
        self.snapshot()
        self.base.mark_start()

    def set_mode(self, mode: bool) -> None:
        """A base that no gradient enters stays in eval mode, and so does what keeps statistics of its inputs.

        These statistics are the base's own: moved by training, they would be neither stored with the adapter nor given
        back. The PEFT modules follow ``mode``.
        """
        heads = tuple(f"{name}." for name in self.host.heads())
        for name, module in keepers(self.host.backbone) if mode else ():
            module.training = is_peft_key(name) or f"{name}.".startswith(heads or ("/",))
        if mode and self.frozen_eval:
            heads = [self.host.backbone.get_submodule(name) for name in self.host.heads()]
            for child in self.host.backbone.children():
                child.train(any(child is head for head in heads))
            for module in self.peft_modules():
                module.train(mode)

    # Keys -----------------------------------------------------------------------------------------------------------

    def own_keys(self) -> set[str]:
        """Keys, inside the backbone, of what belongs to the adapter: PEFT modules, trained parameters, its head.

        A random base belongs to it too, since no file could give it back.
        """
        heads, keys = tuple(f"{name}." for name in self.host.heads()), set(state_dict(self.host.backbone))
        if self.base.source == RANDOM:
            return keys
        return {k for k in keys if is_peft_key(k) or k.startswith(heads)} | set(self.trained)

    def save_merged(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Add to a state dict whether, and from what, the adapter is merged."""
        put_merged(self, state_dict, prefix)

    def complete(self, state_dict: dict[str, Tensor], prefix: str, note: Mapping[str, Any] | None = None) -> None:
        """Add to a state dict that is being loaded what it rightly lacks, with the present values.

        A run's checkpoint lacks the frozen base, which is loaded now where it never was; a plain checkpoint lacks the
        PEFT parameters.

        Args:
            state_dict: The state dict, changed in place.
            prefix: Of the backbone's keys in it.
            note: What it says of its base.

        Raises:
            UserError: It holds PEFT parameters of other names or shapes, or of another base.
        """
        take_merged(self, state_dict, prefix)
        self.base.meet(state_dict, prefix, note)
        own, state = self.own_keys(), self.host.backbone.state_dict()
        state = {key: value for key, value in state.items() if not key.startswith(MERGED)}
        names = plain_keys(self.host.backbone, state)
        base = [key for key in state if names.get(key) not in own]
        lacking = base if not any(prefix + key in state_dict for key in base) else []
        peft = {key: value for key, value in state.items() if is_peft_key(key)}
        given = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        given = {key: value for key, value in given.items() if is_peft_key(key)}
        if given:  # loaders that are not strict would pass over what does not fit
            check_tensors(given, peft, "the state dict", "Load what the same methods have learned.")
        elif not any(is_peft_key(key) for key in state_dict):
            lacking = [*lacking, *peft]
        for key in lacking:
            state_dict[prefix + key] = state[key]

    # Switching, merging, detaching ----------------------------------------------------------------------------------

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within the context the backbone is the plain one with its own weights and head, in every thread."""
        self.base.need("its own answers", alone=True)
        self.check()
        base = {**self.merged, **self.originals}
        params = {p.name: p.param for p in self.host.parameters() if p.name in base}
        kept = {name: param.detach().clone() for name, param in params.items()}
        before = self.host.passes.enabled
        write_values(self.host, base)
        self.host.passes.enabled = False
        try:
            with self.heads.plain():
                yield
        finally:
            write_values(self.host, kept)
            self.host.passes.enabled = before

    def check_restorable(self) -> None:
        """Make sure that the base can be given its own values back (:meth:`detach`).

        Raises:
            UserError: As :meth:`check`, or a trained parameter was resized.
        """
        self.check()
        places_of(self.host, {**self.merged, **self.originals})

    def merge(self) -> list[str]:
        """Fold every affine module into the weights of its site.

        Returns:
            Keys of the methods of which something could not be folded and stays in place; names of the adapters where a
            sum of several answers.

        Raises:
            UserError: It is merged already, or no method can be merged.
        """
        methods = list(self.methods.values())
        if self.blend and self.several is not None:
            methods = self.several.summed_methods()
        else:
            self.check()
        if self.merged or not any(e.active for e in self._entries()):
            if self.merged:
                raise UserError("the adapter is merged already: unmerge it first.")
            if all(method.mergeable for method in methods):
                return []
        if not any(method.mergeable or method.partly_mergeable for method in methods):
            names = ", ".join(type(method).__name__ for method in methods)
            raise UserError(f"{names} cannot be merged into the weights: its function is not affine in its input.")
        new: dict[int, Tensor] = {}
        folded = [e for site in self.host.every_site() for e in fold_site(site, new)]
        values = {p.name: (p.param, new[id(p.param)]) for p in self.host.parameters() if id(p.param) in new}
        for name, (_, value) in values.items():
            if not torch.isfinite(value).all():
                raise UserError(f"merging would write NaN or infinity to {name}: the adapter holds such values.")
        self.merged = {name: param.detach().clone() for name, (param, _) in values.items()}
        write_values(self.host, {name: value for name, (_, value) in values.items()})
        for entry in folded:
            entry.active = False
        return sorted({e.key for e in self._entries() if e.active})

    def take_as_merged(self, before: Mapping[str, Tensor]) -> None:
        """Be merged, since the weights that are about to be loaded are.

        Args:
            before: The weights as they were before merging, by key.

        Raises:
            UserError: They are not those that merging here would change.
        """
        new: dict[int, Tensor] = {}
        folded = [] if self.merged else [e for site in self.host.every_site() for e in fold_site(site, new)]
        params = {p.name: p.param for p in self.host.parameters()}
        names = self.merged.keys() if self.merged else {name for name, p in params.items() if id(p) in new}
        if names != before.keys() or any(params[name].shape != before[name].shape for name in names):
            raise UserError("the state dict is of an adapter merged into other weights: attach the same methods.")
        self.merged = {name: before_merging(params[name], value) for name, value in before.items()}
        for entry in folded:
            entry.active = False

    def before_pass(self) -> None:
        """Refuse to train what is merged.

        Raises:
            UserError: The adapter is merged, or not the only one, and the pass is one of training.
        """
        if self.blend and self.host.backbone.training and torch.is_grad_enabled():
            raise UserError(f"{self.blend}, and nothing of it would be trained: vpeft.use(model, name) first.")
        if self.merged and self.host.backbone.training and torch.is_grad_enabled():
            raise UserError(
                "the adapter is merged into the weights, where training would not reach it: vpeft.unmerge(model) first "
                "(or model.eval(), or torch.no_grad())."
            )

    def unmerge(self) -> None:
        """Undo :meth:`merge`, bit for bit.

        Raises:
            UserError: Nothing is merged.
        """
        if not self.merged:
            raise UserError("the adapter is not merged: there is nothing to unmerge.")
        write_values(self.host, self.merged)
        self.merged = {}
        for entry in self._entries():
            entry.active = True

    def _entries(self) -> Iterator:
        for site in self.host.every_site():
            yield from site.entries

    def detach(self, restore: bool = True) -> None:
        """Take every PEFT module away and give the plain host back.

        Args:
            restore: Give the base its own values back, bit-equal. False keeps what was merged and trained.
        """
        if self.several is not None:
            self.several.detach(restore)
            return
        if restore:
            self.check_restorable()
            write_values(self.host, {**self.merged, **self.originals})
            self.heads.restore()
        for p in self.host.parameters():
            if p.param.is_floating_point():  # quantised since attaching: it cannot ask for a gradient
                p.param.requires_grad_(self.flags.get(p.name, p.param.requires_grad))
        self.base.close()
        if self.lowered is not None:
            self.lowered.release()
        del self.host.backbone.peft_adaptation
        self.host.release()
        self.host.backbone.train(self.host.backbone.training)
