"""V-PEFT Bench: parameter-efficient fine-tuning of vision backbones, every method on every task.

Importing it imports no other package. What is named here is imported when it is first used, mends of other packages
wait for these (:mod:`vpeft.compat`), and mmengine learns what it has to know of this one when it is imported itself.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vpeft import compat
from vpeft.errors import UserError, importing

if TYPE_CHECKING:
    from vpeft.apis.adapters import (
        adapter_names,
        attach,
        detach,
        disabled,
        drop_adapter,
        load_adapter,
        merge,
        plain_state_dict,
        save_adapter,
        unmerge,
        use,
    )
    from vpeft.apis.own_loop import follow_steps, learn, parameter_groups, training_loss
    from vpeft.apis.predict.load import load
    from vpeft.apis.zoo.zoo import from_zoo
    from vpeft.core.backbones.load import load_backbone
    from vpeft.core.backbones.weights import load_pretrained

__version__ = "0.1.0"

__all__ = [
    "UserError",
    "adapter_names",
    "attach",
    "detach",
    "disabled",
    "drop_adapter",
    "follow_steps",
    "from_zoo",
    "learn",
    "load",
    "load_adapter",
    "load_backbone",
    "load_pretrained",
    "merge",
    "parameter_groups",
    "plain_state_dict",
    "save_adapter",
    "training_loss",
    "unmerge",
    "use",
]

#: Where the names are that are not those of an adapter's life.
_ELSEWHERE = {
    "follow_steps": "vpeft.apis.own_loop",
    "from_zoo": "vpeft.apis.zoo.zoo",
    "learn": "vpeft.apis.own_loop",
    "load": "vpeft.apis.predict.load",
    "load_backbone": "vpeft.core.backbones.load",
    "load_pretrained": "vpeft.core.backbones.weights",
    "parameter_groups": "vpeft.apis.own_loop",
    "training_loss": "vpeft.apis.own_loop",
}
_ROOMS = ("algorithms", "apis", "core", "extension", "files", "registry")


def __getattr__(name: str) -> Any:
    if name not in (*__all__, *_ROOMS):
        raise AttributeError(f"module 'vpeft' has no attribute {name!r}")
    with importing():
        if name in _ROOMS:
            return import_module(f"vpeft.{name}")
        found = globals()[name] = getattr(import_module(_ELSEWHERE.get(name, "vpeft.apis.adapters")), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


def _composed(path: Path) -> Path | None:
    """The file of a config that no file holds, for a config that names it as its base."""
    return import_module("vpeft.apis.config.recipes").composed_base(path)


def _shipped(filename: str, map_location: Any = None) -> dict[str, Any]:
    """The weights of ``vpeft://<name>``."""
    return import_module("vpeft.core.backbones.nano").load_from_vpeft(filename, map_location)


def _register(module: ModuleType) -> None:
    import_module("vpeft.registry")


def _know_shipped(module: ModuleType) -> None:
    module.CheckpointLoader.register_scheme("vpeft://", _shipped)


def _fill_whole(module: ModuleType) -> None:
    """``vpeft://`` in the ``init_cfg`` of any model is loaded whole, or refused: mmengine drops what does not fit."""
    original = module.PretrainedInit.__call__

    def fill(self: Any, model: Any) -> None:
        if not str(self.checkpoint).startswith("vpeft://"):
            original(self, model)
            return
        import_module("vpeft.core.backbones.weights").load_pretrained(model, self.checkpoint, prefix=self.prefix)
        if hasattr(model, "_params_init_info"):
            module.update_init_info(model, init_info=self._get_init_info())

    module.PretrainedInit.__call__ = fill


compat.mmengine.COMPOSERS.append(_composed)
compat.waiting.after_import("mmengine.registry", _register)
compat.waiting.after_import("mmengine.runner.checkpoint", _know_shipped)
compat.waiting.after_import("mmengine.model.weight_init", _fill_whole)
