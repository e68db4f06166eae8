"""``vpeft.from_zoo``: an adapter that is shipped, opened to predict."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpeft.errors import UserError
from vpeft.files import read_json
from vpeft.registry import nearest

if TYPE_CHECKING:
    import torch

    from vpeft.apis.predict.predictor import Predictor

#: The adapter files, and the index beside them.
ADAPTERS = Path(__file__).parent / "adapters"
INDEX = "index.json"


@cache
def zoo_index() -> dict[str, dict[str, Any]]:
    """What is said of every adapter, by its name.

    Returns:
        ``config``, ``task`` and ``seed`` of its run; ``methods`` with their settings; ``trained``, parameters outside
        the head, and ``head``; ``accuracy`` of the last epoch on the ``images`` of the test, in 0..1, asked once;
        ``commit`` that it was trained at; ``bytes`` and ``sha256`` of its file.
    """
    return read_json(ADAPTERS / INDEX, "the zoo's index")


def from_zoo(name: str, device: str | torch.device | None = None) -> Predictor:
    """Open a shipped adapter on the shipped base that it was trained on: ``vpeft.from_zoo("lora_nano_vit_digits")``.

    Args:
        name: One of those that ``vpeft list zoo`` shows, ``<method>_<backbone>_<task>``.
        device: As of :func:`vpeft.load`.

    Returns:
        What :func:`vpeft.load` gives: model, names of the classes, preprocessing, ``predict``.

    Raises:
        UserError: There is no such adapter, or its file is missing or not the one whose checksum is recorded.
    """
    from vpeft.apis.predict.load import load

    return load(zoo_file(name), device=device)


def zoo_file(name: str) -> Path:
    """The file of a shipped adapter, after a check that it is the one that was trained.

    Raises:
        UserError: As of :func:`from_zoo`.
    """
    from vpeft.core.backbones.nano import sha256

    known = zoo_index()
    if name not in known:
        raise UserError(f"no adapter {name!r} in the zoo: {nearest(name, known)} (vpeft list zoo)")
    path = ADAPTERS / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(f"{path} is missing: reinstall vpeft.")
    if (found := sha256(path)) != known[name]["sha256"]:
        raise UserError(
            f"{path} has the SHA-256 checksum {found} where {INDEX} says {known[name]['sha256']}: it is not the file "
            "that was trained. Reinstall vpeft, or make the zoo anew (vpeft make-zoo --help)."
        )
    return path
