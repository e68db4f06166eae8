"""What is asked of a library of models, and which library a model is of."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.libraries.preprocessing import Preprocessing
from vpeft.errors import UserError, closest, one_line

#: By the word before the slash of a model's name: the package, and the file of this room that knows it.
LIBRARIES = {
    "timm": ("timm", "timm"),
    "hf": ("transformers", "transformers"),
    "torchvision": ("torchvision", "torchvision"),
    "open_clip": ("open_clip", "open_clip"),
    "mmpretrain": ("mmpretrain", "mmpretrain"),
}


class Library:
    """A library of models.

    Attributes:
        prefix: The word before the slash.
        by_name: Whether a name alone says how a model is built; otherwise its config does, a file beside the weights.
        heads: Names of the modules that classify, in any model of it.
        config: The file that makes a folder one of this library's, None where it has no folders.
        mark: A key that such a config has, and no other library's.
        kept: Pattern of a model's keys that files may lack.
        optional: Pattern of a file's keys that a model may do without.
        converter: What brings files of other names to a model's.
    """

    prefix = ""
    by_name = True
    heads: tuple[str, ...] = ("head", "heads", "fc", "classifier")
    config: str | None = None
    mark = ""
    kept = r"(?!)"
    optional = r"(norm|fc_norm|layernorm|pooler)\..+"
    converter = "own converter"

    def names(self) -> list[str]:
        """The models that it can build by name; empty where they are not known without a network."""
        return []

    def build(self, name: str, pretrained: bool, **options: Any) -> nn.Module:
        """A model of the library.

        Args:
            name: Its name, without the prefix.
            pretrained: Whether the library fetches its weights.
            options: Of the library's own function.
        """
        raise NotImplementedError(f"{type(self).__name__} states no build(name, pretrained): how a model is made.")

    def build_from(self, folder: Path, **options: Any) -> nn.Module:
        """The model that a folder's config describes, without weights."""
        raise UserError(f"{folder}: a model of {self.prefix} is built by its name, not from a folder.")

    def stated_in(self, folder: Path) -> dict[str, Any]:
        """What the config in a folder says, empty where there is none or it cannot be read."""
        try:
            stated = json.loads((folder / self.config).read_text()) if self.config else {}
        except (OSError, ValueError):
            return {}
        return stated if isinstance(stated, dict) else {}

    def owns(self, folder: Path) -> bool:
        """Whether a folder is one of this library's, by its config."""
        return self.mark in self.stated_in(folder)

    def address(self, name: str) -> str | None:
        """Where this project's own loader finds the weights; None where the library fetches them itself."""
        return None

    def converted(self, state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
        """A file's weights under the names of ``model``, by the library's own converter; None where it has none."""
        return None

    def heads_of(self, model: nn.Module) -> tuple[str, ...]:
        """Dotted names of what is trained anew for a task: files may lack it, or have another."""
        return self.heads

    def differences(self, folder: Path, model: nn.Module) -> list[str]:
        """Settings in which a folder's config differs from ``model``, though all tensors fit."""
        return []

    def elsewhere(self, model: nn.Module, classes: Collection[str]) -> list[str]:
        """Names, for ``load_backbone``, of other libraries' models whose published weights have the same name.

        Args:
            model: A model of this library.
            classes: Full names of the classes that are asked for.
        """
        return []

    def named(self, word: str, classes: Collection[str]) -> list[str]:
        """Names of its models that have a word, from the files in which some classes are written."""
        return []

    def preprocessing(self, name: str, folder: Path | None = None) -> Preprocessing | None:
        """What a model expects of images; None where neither the library nor a file in ``folder`` says it.

        Args:
            name: Its name, without the prefix; empty where ``folder`` alone says which model it is.
            folder: The folder of its weights or its config.

        Raises:
            UserError: Weights of that name expect different things; the message says how to tell which.
        """
        return None

    def need(self, name: str, known: Iterable[str], listing: str) -> None:
        """Refuse a name that the library does not have, with the nearest that it has."""
        if name not in (known := set(known)):
            near = closest(name, known)
            hint = f" did you mean '{self.prefix}/{near}'?" if near else ""
            raise UserError(f"{self.prefix} has no model {name!r}:{hint} {listing} lists them.")


def is_installed(prefix: str) -> bool:
    """Whether a library's package can be found, without importing it."""
    return importlib.util.find_spec(LIBRARIES[prefix][0]) is not None


def library(prefix: str) -> Library:
    """The library by the word before the slash.

    Raises:
        UserError: It is not installed.
    """
    package, file = LIBRARIES[prefix]
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"{package} is not installed, or cannot be imported ({one_line(error)}): pip install {package}."
        ) from error
    found = importlib.import_module(f"{__package__}.{file}").LIBRARY
    found.prefix = prefix
    return found


def library_of(model: nn.Module) -> Library | None:
    """The library in which the class of a model, or what it derives from, is written; None where none of them."""
    prefixes = {package: prefix for prefix, (package, _) in LIBRARIES.items()}
    packages = (cls.__module__.split(".")[0] for cls in type(model).__mro__)
    return next((library(prefixes[package]) for package in packages if package in prefixes), None)
