"""Values of the run itself: mmengine takes nearly any of them, and fails steps later or does something else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmengine import Config

from vpeft.core.contract.values import fits


class Number(NamedTuple):
    """What a number may be: whole or not, and its lowest value."""

    whole: bool
    low: float = -math.inf
    above: bool = False
    #: A further value, which has a meaning of its own.
    off: float | None = None

    def takes(self, value: Any) -> bool:
        """Whether a value is such a number; None and what is no plain value are for the class that reads them."""
        if not isinstance(value, (str, bool, int, float)) or value == self.off:
            return True
        if not fits(value, float, (self.low, math.inf)) or (self.above and value == self.low):
            return False
        return not self.whole or value == int(value)

    def words(self) -> str:
        """To end a sentence with."""
        kind = "a whole number" if self.whole else "a number"
        where = "" if self.low == -math.inf else f" {'above' if self.above else 'of at least'} {self.low:g}"
        return f"{kind}{where}" + ("" if self.off is None else f", or {self.off:g} for none")


COUNT, ANY, POSITIVE = Number(True, 1), Number(False), Number(False, 0, above=True)
NOT_NEGATIVE = Number(False, 0)
_SCHEDULE = dict.fromkeys(("factor", "start_factor", "end_factor", "gamma", "power", "eta_min", "eta_min_ratio"), ANY)
_OPTIMISER = ("lr", "weight_decay", "lr_mult", "decay_mult", "norm_decay_mult", "bias_decay_mult", "bias_lr_mult")
_LOADER = {"batch_size": COUNT, "num_workers": Number(True, 0)}
#: By section of a config, at any depth of it, the last part of the key.
NUMBERS: dict[str, dict[str, Number]] = {
    "train_cfg": {"max_epochs": COUNT, "max_iters": COUNT, "val_interval": COUNT, "val_begin": Number(True, 0)},
    # parts of an epoch are fine where convert_to_iter_based turns them into steps
    "param_scheduler": {**_SCHEDULE, "begin": NOT_NEGATIVE, "end": POSITIVE, "T_max": POSITIVE, "step_size": COUNT},
    "optim_wrapper": {
        **dict.fromkeys(_OPTIMISER, NOT_NEGATIVE),
        "accumulative_counts": COUNT,
        # a limit below zero turns the gradient round
        **dict.fromkeys(("max_norm", "clip_value"), POSITIVE),
    },
    "default_hooks": {"interval": Number(True, 1, off=-1), "max_keep_ckpts": Number(True, 1, off=-1)},
    "log_processor": {"window_size": COUNT},
    **dict.fromkeys(("train_dataloader", "val_dataloader", "test_dataloader"), _LOADER),
    "model": {"loss_weight": ANY},
}


#: Of settings at the top level, what they may be, and that in words.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "per_task": ((Mapping,), "a table, dict(columns=..., <task>=...)"),
    "compile": ((bool, Mapping), "True, False or the options of torch.compile"),
    "activation_checkpointing": ((str, list, tuple), "names of modules, such as 'backbone.layers.0'"),
}


def value_faults(cfg: Config) -> Iterator[tuple[str, str]]:
    """Values that are none of the kind that their key is read as.

    Args:
        cfg: The config, with the user's options.

    Yields:
        The dotted key, and what is wrong with it.
    """
    settings = cfg._cfg_dict
    for key, (kinds, words) in KINDS.items():
        if (value := settings.get(key)) is not None and not isinstance(value, kinds):
            yield key, f"{key} must be {words}, not {value!r}"
    for section, numbers in NUMBERS.items():
        for key, name, value in _values(settings.get(section), section):
            if name in numbers and not numbers[name].takes(value):
                yield key, f"{key} must be {numbers[name].words()}, not {value!r}"


def _values(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Every value at any depth: its dotted key, the last part of it, and itself."""
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield f"{path}.{name}", str(name), value
            yield from _values(value, f"{path}.{name}")
