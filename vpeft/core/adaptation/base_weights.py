"""Where the base of an adaptation comes from: a file, somebody's hand, or nowhere yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from vpeft.core.adaptation.fingerprint import (
    BaseDifference,
    BaseTensor,
    base_table,
    check_description,
    compare_bases,
    fingerprint,
    need_local,
    old_fingerprint,
    require_whole,
)
from vpeft.core.adaptation.options.packed import reset
from vpeft.core.adaptation.wrappers import state_dict
from vpeft.core.backbones.host import Host, is_peft_key
from vpeft.core.backbones.weights import load_weights
from vpeft.core.backbones.weights.read import read_weights
from vpeft.core.backbones.weights.recognise import below
from vpeft.errors import UserError

#: What the base can be: loaded from a file, given with its weights, random on purpose, or without weights so far.
FILE, GIVEN, RANDOM, NEVER = "file", "given", "random", "never"
#: How a file came in: named by the backbone's config, or a whole checkpoint that the run started from.
INIT_CFG, LOAD_FROM = "init_cfg", "load_from"

_REMEDY = (
    "name its file by init_cfg=dict(type='Pretrained', checkpoint=...) of the backbone, or say base='random' in "
    "vpeft.PEFT where a random base is meant (docs/weights.md)"
)


class Adapted(Protocol):
    """What is asked of an adaptation here (:class:`~vpeft.core.adaptation.adaptation.Adaptation`)."""

    host: Host
    trained: list[str]
    originals: dict[str, Tensor]
    merged: dict[str, Tensor]

    def peft_modules(self) -> Iterator[nn.Module]: ...

    def snapshot(self) -> None: ...


class BaseWeights:
    """The base of one adaptation.

    Attributes:
        source: ``file``, ``given``, ``random`` or ``never``.
        file: The file, where there is one.
        by: ``init_cfg`` or ``load_from``: how the file came in; None where it was there before attaching.
        prefix: The ``prefix`` that was given with it.
        settled: What :meth:`describe` gives from now on, where the tensors no longer lie whole on this device.
    """

    def __init__(self, adaptation: Adapted) -> None:
        self.adaptation = adaptation
        self.source, self.file, self.by, self.prefix = GIVEN, None, None, None
        self.settled: dict[str, Any] | None = None
        self._cache: tuple[Any, dict[str, Any]] | None = None
        self._expected: tuple[Any, dict[str, Any], bool] | None = None
        self._hooks, self._start = list[Any](), list[int]()

    @property
    def backbone(self) -> nn.Module:
        return self.adaptation.host.backbone

    def tensors(self) -> Iterator[BaseTensor]:
        """The base as it was before training: parameters by key, sorted, and buffers that files hold values of."""
        host, before = self.adaptation.host, {**self.adaptation.merged, **self.adaptation.originals}
        parameters = {p.name: p for p in sorted(host.parameters(), key=lambda p: p.name)}
        for p in parameters.values():
            yield BaseTensor(p.name, p.role, before.get(p.name, p.param.detach()))
        heads = tuple(f"{name}." for name in host.heads())
        for name, tensor in state_dict(self.backbone).items():
            is_other = name in parameters or is_peft_key(name) or (heads and name.startswith(heads))
            if tensor.is_floating_point() and not is_other:
                yield BaseTensor(name, host.special.get(name, "buffer"), tensor)

    def frozen(self) -> bool:
        """Whether the methods leave any parameter of the base as it is: what they train is stored with them."""
        return any(p.name not in self.adaptation.trained for p in self.adaptation.host.parameters())

    # What is known ----------------------------------------------------------------------------------------------------

    def start(self, source: str) -> None:
        """Say where the base comes from; one that was never loaded does not answer once its adapter has moved."""
        self.close()
        self.source, self.file, self.by, self.prefix = source, None, None, None
        self.mark_start()
        self._hooks = [self.backbone.register_load_state_dict_post_hook(_Loaded(self))]
        if source == NEVER:
            self._hooks.append(self.adaptation.host.embedding.register_forward_pre_hook(_Unloaded(self)))

    def close(self) -> None:
        """Leave the backbone alone: the adaptation is taken off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def loaded(self, file: str, by: str | None, prefix: str | None = None) -> None:
        """Say that the base was loaded from a file."""
        self.start(FILE)
        self.file, self.by, self.prefix = file, by, prefix

    def mark_start(self) -> None:
        """Remember the present state of what is trained as its start."""
        self._start = self._versions()

    def moved(self) -> bool:
        """Whether what is trained is no longer at its start: it was trained, or loaded."""
        params = {p.name: p.param for p in self.adaptation.host.parameters()}
        starts = self.adaptation.originals.items()
        return self._versions() != self._start or any(not _same(start, params[name]) for name, start in starts)

    def _versions(self) -> list[int]:
        return [_version(p) for module in self.adaptation.peft_modules() for p in module.parameters()]

    def need(self, deed: str, alone: bool = False) -> None:
        """Refuse to do something with a frozen base that got no weights from anywhere.

        Args:
            deed: What was to be done, as in ``"training"``.
            alone: It asks for the base as it was, without what was learned; whether it is frozen does not matter then.

        Raises:
            UserError: The base was never loaded.
        """
        if self.source == NEVER and (self.moved() if alone else self.frozen()):
            name = f"the {'' if alone else 'frozen '}base ({type(self.backbone).__name__})"
            raise UserError(f"{name} got no weights from anywhere, and {deed} would go by random ones: {_REMEDY}.")

    # Fingerprint ------------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What a file says of the base: where it comes from, and the digests of its tensors; worked out once.

        Raises:
            UserError: The base was never loaded.
        """
        self.need("what is saved")
        if self.settled is not None:
            return self.settled
        tensors = list(self.tensors())
        state = [(t.name, t.tensor.shape, t.tensor.dtype, t.tensor.data_ptr(), _version(t.tensor)) for t in tensors]
        # Writing through `.data`, as mmengine's EMA does, leaves no trace in the versions.
        state.append(torch.stack([t.tensor.sum(dtype=torch.float32) for t in tensors]).tolist())
        if self._cache is None or self._cache[0] != state:
            table = base_table(tensors)
            self._cache = state, {"fingerprint": fingerprint(table), "tensors": table}
        origin = {"source": self.source, "file": self.file, "by": self.by, "prefix": self.prefix}
        return {**origin, **self._cache[1]}

    def fingerprint(self) -> str:
        """SHA-256 of the base as it was before training: keys, shapes and values."""
        return self.describe()["fingerprint"]

    def check(self, description: Mapping[str, Any] | str, where: str) -> None:
        """Make sure that the base is the described one; one that was never loaded is loaded now.

        Another precision, and position tables of another size, are said and let pass.

        Args:
            description: Of :meth:`describe`; or the one SHA-256 of an old file.
            where: The file that says so.

        Raises:
            UserError: It is another base, or its file is not to be found; the base is as it was then.
        """
        if self.source == RANDOM and isinstance(description, Mapping) and description["source"] == RANDOM:
            return  # it is stored with the adapter
        if self.source == NEVER:
            try:
                if not self.load(description, where):
                    return
            except UserError:
                if self.frozen():
                    raise
                return  # all of the base is trained, and stored with the rest
        difference = self._compare(description)
        if difference.differing and self._followed_load_from(description):
            kept = {key: value.clone() for key, value in state_dict(self.backbone).items()}
            before = self.source, self.file, self.by, self.prefix, self.adaptation.originals
            self._load_whole(description["file"], where)
            difference = self._compare(description)
            if difference.differing:
                with torch.no_grad():
                    for key, value in state_dict(self.backbone).items():
                        value.copy_(kept[key])
                self.source, self.file, self.by, self.prefix, self.adaptation.originals = before
        if difference.differing:
            origin = {"fingerprint": description} if isinstance(description, str) else description
            theirs = f", {origin['file']}" if origin.get("file") else ""
            if origin.get("source") == RANDOM:
                theirs = ", random ones (base='random')"
            here = f"the base here is {self.file}, and " if self.file else ""
            raise UserError(
                f"{where} was trained on other base weights{theirs} (fingerprint {origin['fingerprint'][:12]}...): "
                f"{here}{difference.some()}. Load the pretrained weights that it was trained on."
            )
        for line in difference.notes():
            MMLogger.get_current_instance().warning(f"{where}: {line}")

    def _compare(self, description: Mapping[str, Any] | str) -> BaseDifference:
        if isinstance(description, str):
            same = description == old_fingerprint(self.tensors())
            return BaseDifference({} if same else {"the one here": "is another"})
        if self._cache is not None and self.describe()["fingerprint"] == description["fingerprint"]:
            return BaseDifference({})
        return compare_bases(description["tensors"], self.tensors())

    # Loading ----------------------------------------------------------------------------------------------------------

    def named(self) -> dict[str, Any] | None:
        """The ``Pretrained`` among the backbone's ``init_cfg``, None where there is none."""
        return next((one for one in self._init_cfgs() if _is_pretrained(one)), None)

    def _init_cfgs(self) -> list[dict[str, Any]]:
        init_cfg = getattr(self.backbone, "init_cfg", None) or []
        return [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg)

    def initialise(self, plain: Callable[..., None], *args, **kwargs) -> None:
        """Give the base its weights: those of the named file, or by ``plain`` where it has none so far."""
        backbone, named = self.backbone, self.named()
        if self.source == GIVEN and named is None:
            return  # given with its weights: an initialiser would undo them
        others = [one for one in self._init_cfgs() if not _is_pretrained(one)]
        if named is None or others:
            stated, backbone.init_cfg = getattr(backbone, "init_cfg", None), others or None
            try:
                plain(*args, **kwargs)
            finally:
                backbone.init_cfg = stated
        if named is not None:
            self._load_named(named)
            backbone._is_init = True

    def load(self, description: Mapping[str, Any] | str | None, where: str) -> bool:
        """Load a base that was never loaded: the file that its config names, or else the described one.

        Args:
            description: What a checkpoint says of its base.
            where: That checkpoint.

        Returns:
            Whether it was loaded; False where no file is known and nothing of the base is frozen, so nothing lacks.

        Raises:
            UserError: The file is not known or cannot be read.
        """
        origin = description if isinstance(description, Mapping) else {}
        if (named := self.named()) is not None:
            self._load_named(named)
        elif origin.get("by") == LOAD_FROM:
            self._load_whole(origin["file"], where)
        elif origin.get("file") and not self._init_cfgs():
            need_local(origin["file"], where)
            self._load_named({"checkpoint": origin["file"], "prefix": origin.get("prefix")})
        elif not self.frozen():
            return False
        elif origin.get("file"):
            raise UserError(
                f"{where} was trained on other base weights, {origin['file']}: the config's init_cfg asks for random "
                "ones. Name that file in init_cfg=dict(type='Pretrained', checkpoint=...) of the backbone."
            )
        else:
            raise UserError(
                f"{where} holds no base weights, and the base ({type(self.backbone).__name__}) was never loaded: "
                f"{_REMEDY}."
            )
        self.adaptation.snapshot()
        return True

    def _load_named(self, named: Mapping[str, Any]) -> None:
        load_weights(self.backbone, named["checkpoint"], prefix=named.get("prefix"))
        self.loaded(str(named["checkpoint"]), INIT_CFG, named.get("prefix"))

    def _followed_load_from(self, description: Mapping[str, Any] | str) -> bool:
        """Whether the described run replaced its config's own base by a whole checkpoint, as may be done here too."""
        is_whole = isinstance(description, Mapping) and description["by"] == LOAD_FROM
        return is_whole and self.source in (FILE, RANDOM) and not self.adaptation.merged

    def _load_whole(self, file: str, where: str) -> None:
        """Load the base out of a whole model's checkpoint, as the run did that started from it."""
        need_local(file, where)
        if "://" not in file and not os.path.isfile(os.path.expanduser(file)):
            raise UserError(
                f"{where} was trained on the base of {file}, and no such file is there: put it back, or name it in its "
                "new place by init_cfg=dict(type='Pretrained', checkpoint=...) of the backbone."
            )
        state, _ = read_weights(file)
        first = next(p.name for p in self.adaptation.host.parameters())
        prefix = next((key.removesuffix(first) for key in state if f".{key}".endswith(f".{first}")), "")
        state = {key: value for key, value in below(state, prefix).items() if not is_peft_key(key)}
        require_whole(self.adaptation.host.parameters(), state, "", file)
        self.backbone.load_state_dict(state, strict=False)
        self.loaded(file, LOAD_FROM)
        self.adaptation.snapshot()

    # Meeting a state dict ---------------------------------------------------------------------------------------------

    def meet(self, state: Mapping[str, Tensor], prefix: str, note: Mapping[str, Any] | None) -> None:
        """See what a state dict that is being loaded means for the base, before any of it is copied.

        Args:
            state: The state dict.
            prefix: Of the backbone's keys in it.
            note: What it says of its base (``BASE_NOTE`` in its metadata): a description, or, of a whole checkpoint
                that a run starts from, ``{"file": ..., "by": "load_from"}``.

        Raises:
            UserError: It holds no base, and the base is another one, or was never loaded and cannot be loaded now.
        """
        self._expected = None
        if note is not None and not _is_origin(note):
            check_description(note, "what the checkpoint says of its base")
        params, frozen = list(self.adaptation.host.parameters()), self.frozen()
        whole = note is not None and _is_origin(note)
        of_run = note is not None and not whole
        theirs = [p for p in params if whole or not frozen or p.name not in self.adaptation.trained]
        lacks = not any(prefix + p.name in state for p in theirs)
        if of_run and (lacks or not frozen):
            self.check(note, "the checkpoint")
        elif lacks:
            if self.source == NEVER and self.load(None, "the state dict"):
                MMLogger.get_current_instance().warning(
                    f"the state dict holds no base weights and does not say which they are: {self.file} was loaded, as "
                    "the config says."
                )
        elif whole or self.source == NEVER or not all(_same(state.get(prefix + p.name), p.param) for p in theirs):
            # What starts from the base starts anew on another one, unless it has learned or is loaded too.
            fresh = not self.moved() and not any(is_peft_key(key) for key in state)
            self._expected = note, {p.name: (id(p.param), _version(p.param)) for p in theirs}, fresh

    def met(self) -> None:
        """Take over, once a state dict is loaded, what it has brought."""
        expected, self._expected = self._expected, None
        if expected is None:
            return
        note, before, fresh = expected
        now = {p.name: (id(p.param), _version(p.param)) for p in self.adaptation.host.parameters()}
        if any(now[name] == state for name, state in before.items()):
            return  # not all of it was loaded: what was not known before is not known now
        was = self.source
        for module in self.adaptation.peft_modules() if fresh else ():
            if getattr(module, "starts_from_base", False):
                reset(module)
        if note is not None and "tensors" not in note:
            self.loaded(note["file"], LOAD_FROM)
        else:
            self.start(GIVEN if note is None else note["source"])
        if was == NEVER or self.by == LOAD_FROM:
            self.adaptation.snapshot()


class _Loaded:
    """Hook of the backbone behind the loading of a state dict."""

    def __init__(self, base: BaseWeights) -> None:
        self.base = base

    def __call__(self, module: nn.Module, incompatible: Any) -> None:
        self.base.met()


class _Unloaded(_Loaded):
    """Pre-hook of the patch embedding while the base was never loaded: what it learned does not answer."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not self.base.backbone.training and self.base.moved():
            self.base.need("its answers")


def _is_pretrained(init_cfg: Mapping[str, Any]) -> bool:
    kind = init_cfg.get("type")
    return kind == "Pretrained" or getattr(kind, "__name__", "") == "PretrainedInit"  # mmengine's class itself


def _is_origin(note: Any) -> bool:
    return isinstance(note, Mapping) and note.keys() == {"file", "by"} and isinstance(note["file"], str)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _same(given: Any, param: Tensor) -> bool:
    fits = isinstance(given, Tensor) and given.shape == param.shape
    return fits and torch.equal(given.detach().to(param), param.detach())
