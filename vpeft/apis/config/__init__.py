"""From a name to a config, in one stated order."""

from importlib import import_module
from typing import Any

#: Names of configs are asked for without reading one.
_PLACES = {"config_names": "listing", "load_config": "load", "plain_config": "load"}
__all__ = ["config_names", "load_config", "plain_config"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"vpeft.apis.config.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
