"""The contract of a method.

A method is a dataclass in one file: its fields are its hyper-parameters, its docstring the paper's equation.
Registering it in ``PEFT_METHODS`` makes the tests, the configs' check, ``tools/list.py`` and the reports follow.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.contract.checks import Checks
from vpeft.core.contract.options import OPTIONS, Options, plain_value
from vpeft.core.contract.search_space import COMMON, Values
from vpeft.core.contract.subnets import SubnetSpace
from vpeft.core.contract.training import TrainingData, TrainingPass, TrainingStep
from vpeft.core.contract.values import Limits
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

CATEGORIES = (
    "baseline",
    "adapter",
    "prompt",
    "prefix",
    "side",
    "specification",
    "reparameter",
    "unified",
)


#: Starts of methods that by their paper do not start as the frozen host.
STARTS = ("official", "identity")


@dataclasses.dataclass(kw_only=True)
class Method(Options, Checks):
    """Base of every method. A subclass states the class attributes and :meth:`build`, :meth:`trains`, :meth:`count`.

    It is given a host: all of it, or the part with the blocks that :class:`~vpeft.core.contract.options.Options` leave
    it. What it does follows ``host.blocks``, ``host.sites``, ``host.modules`` and ``host.parameters()`` alone.

    Class attributes:
        category: The survey's category.
        paper: Title and arXiv number or venue.
        memory: What back-propagation has to visit: ``M0`` nothing of the backbone, ``M1`` its upper part, ``M2`` the
            activations of all blocks down to the first trained tensor; ``M1w`` and ``M2w`` form dense weight
            gradients too.
        mergeable: Whether it leaves no trace at inference once merged.
        merges_with: The hyper-parameters with which a method merges that else does not.
        partly_mergeable: Whether some of its modules merge and the others stay in place.
        identity_at_start: Whether the output at the start is the frozen host's: ``True`` or ``"bits"`` bit for bit,
            ``"rounding"`` but for rounding, ``False`` it is another.
        adds_losses: Whether it states :meth:`losses`.
        reads_scores: Whether these read the class scores, so that the model must have a linear head.
        follows_steps: Whether it states :meth:`after_step`. What its modules keep between steps are buffers with
            ``persistent=False``: a run's checkpoint holds them, an adapter does not.
        base_eval: Whether the frozen base stays in eval mode in training (no DropPath, no dropout).
        space: What a search may try of its hyper-parameters: a list of choices or a
            :class:`~vpeft.core.contract.search_space.Range` by name, and by ``lr`` and ``weight_decay`` those of the
            optimiser. The first list of numbers, rates of dropping left out, is its size in a search for rates.
        needs_blocks: Whether it is defined by the blocks of a host; a method that is not attaches to any network.
        needs_frames: Where it takes the frames of a clip from, ``tokens`` or ``batch`` (:attr:`Host.frames_in`); empty
            for a method of images, which needs none.
        limits: Lowest and highest value of a hyper-parameter, or of each of a list, where those of
            :mod:`vpeft.core.contract.values` do not hold: whole numbers from 1, others above 0, drop rates from 0.
        in_a_row: Whether blocks pass something on to the next one (``flow.state``), so that those that it is in must
            follow one another, and none may differ in its sizes from the others.
        needs_all_blocks: Why it cannot be without some of the blocks, or "".
        when_compiled: What a compiled pass does otherwise, with the same outputs, and why; or "".
        unverified: What of it could not be checked against the authors' own words, or None.
    """

    category: ClassVar[str]
    paper: ClassVar[str]
    memory: ClassVar[str] = "M2"
    mergeable: ClassVar[bool] = False
    merges_with: ClassVar[str] = ""
    partly_mergeable: ClassVar[bool] = False
    identity_at_start: ClassVar[bool | Literal["bits", "rounding"]] = True
    adds_losses: ClassVar[bool] = False
    reads_scores: ClassVar[bool] = True
    follows_steps: ClassVar[bool] = False
    base_eval: ClassVar[bool] = False
    needs_blocks: ClassVar[bool] = True
    needs_frames: ClassVar[tuple[str, ...]] = ()
    space: ClassVar[dict[str, Values]] = {}
    limits: ClassVar[dict[str, Limits]] = {}
    in_a_row: ClassVar[bool] = False
    needs_all_blocks: ClassVar[str] = ""
    when_compiled: ClassVar[str] = ""
    unverified: ClassVar[str | None] = None

    def __init_subclass__(cls, **kwargs) -> None:
        """Put the mark of what is not verified into the docstring; refuse names that options have.

        Raises:
            UserError: The class calls something of its own as an option of every method.
        """
        super().__init_subclass__(**kwargs)
        if taken := [name for name in OPTIONS if name in vars(cls) or name in inspect.get_annotations(cls)]:
            raise UserError(f"{cls.__name__}.{taken[0]}: {taken[0]}= is an option of every method; call it otherwise.")
        if cls.unverified and cls.__doc__ and cls.unverified not in cls.__doc__:
            cls.__doc__ = f"{cls.__doc__.rstrip()}\n\n    **Not verified.** {cls.unverified}\n    "

    def build(self, host: Host) -> None:
        """Make the modules and place them at the host's sites."""

    def trains(self, param: HostParam) -> bool:
        """Whether an existing parameter of the base is trained."""
        return False

    def learn(self, host: Host, data: TrainingData) -> None:
        """Select from the training data, once before training, what a module's buffer ``learned`` waits for."""

    def pruned(self, host: Host, data: TrainingData) -> Method | None:
        """What it becomes, once trained, by another look at the data: it is then trained again from its start.

        None where a method does not prune. ``vpeft rewind`` calls it in eval mode, on the trained model.
        """
        return None

    def losses(self, host: Host, training: TrainingPass) -> dict[str, Tensor]:
        """Losses by name that are added to the task's, from the pass that has just run (``adds_losses``)."""
        raise NotImplementedError(f"{type(self).__name__} says adds_losses and states no losses(host, training).")

    def after_step(self, host: Host, step: TrainingStep) -> None:
        """Act after a step of the optimiser, whose gradients are still there (``follows_steps``)."""
        raise NotImplementedError(f"{type(self).__name__} says follows_steps and states no after_step(host, step).")

    def subnet_space(self, host: Host, key: str, settings: Mapping[str, Any]) -> SubnetSpace | None:
        """The space of its subnets under the key ``key``, where it is a supernet that a search may cut down."""
        return None

    def out_width(self, host: Host) -> int | None:
        """Width of the features that the head gets, where it is not the host's own."""
        return None

    def out_maps(self, host: Host) -> list[tuple[int, float]] | None:
        """Width and stride of each map that it gives in the place of the backbone's own (``flow.maps``)."""
        return None

    def count(self, host: Host) -> int:
        """Trainable parameters without the head, as the paper's closed formula in the host's widths."""
        raise NotImplementedError(f"{type(self).__name__} states no count(host): the closed formula of its parameters.")

    def settled(self, host: Host) -> Method:
        """The method with what it leaves to the host filled in, as files hold it."""
        return self

    def folded(self) -> Method | None:
        """A plainer method that answers the same once training is over; None where there is none.

        Its modules stand where those of this one do, by the same names. What a module of this one gives by its own
        ``folded()`` are the tensors there, by name; one without has them as they are.
        """
        return None

    def check(self, host: Host) -> None:
        """Raise a :class:`UserError` where the hyper-parameters do not fit the host."""

    @classmethod
    def key(cls) -> str:
        """Its component in the keys of its parameters."""
        return re.sub(r"[^a-z0-9]+", "_", cls.registered_name().lower())

    @classmethod
    def registered_name(cls) -> str:
        """Its name in ``PEFT_METHODS``.

        Raises:
            UserError: It is not registered.
        """
        for name, method in PEFT_METHODS.module_dict.items():
            if method is cls:
                return name
        raise UserError(f"{cls.__name__} is not registered: put @PEFT_METHODS.register_module() above its class.")

    @classmethod
    def stated_start(cls) -> Literal["bits", "rounding", "other"]:
        """How the output at the start agrees with the frozen host's (``identity_at_start``)."""
        stated = cls.identity_at_start
        return {True: "bits", False: "other"}.get(stated, stated)

    @classmethod
    def search_space(cls) -> dict[str, Values]:
        """Its space, and what every method shares."""
        return {**COMMON, **cls.space}

    @classmethod
    def hyper_parameters(cls) -> dict[str, Any]:
        """Its own fields with their defaults, without the options that every method has."""
        return {f.name: f.default for f in dataclasses.fields(cls) if f.name not in OPTIONS}

    def config(self) -> dict[str, Any]:
        """The config that builds it again."""
        values = {name: getattr(self, name) for name in self.hyper_parameters()}
        return {"type": self.registered_name(), **plain_value({**values, **self.options()})}
