"""Files that try to run code when they are read; each would make the canary.

By kind: a global that is called, what is reached through allowed names (attributes, state of instances), and containers
that readers treat otherwise (bare pickles, tar, TorchScript, packed zip).
"""

from __future__ import annotations

import builtins
import io
import pickle
import pickletools
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch

HISTORY = b"cmmengine.logging.history_buffer\nHistoryBuffer\n"
GETATTR = b"cbuiltins\ngetattr\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def called(function: bytes, *arguments: bytes) -> bytes:
    """function(*arguments), by REDUCE."""
    return function + b"(" + b"".join(arguments) + b"tR"


def instance(name: bytes) -> bytes:
    return name + b")\x81"


def built(thing: bytes, key: str, value: bytes) -> bytes:
    """The instance with ``{key: value}`` as its state, by BUILD."""
    return thing + b"}" + text(key) + value + b"sb"


def archive(data: bytes, packed: bool = False, **members: bytes) -> bytes:
    """A torch file with this pickle."""
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as file:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n", **members}.items():
            file.writestr(f"archive/{name}", content)
    return out.getvalue()


def checkpoint(value: bytes) -> bytes:
    """``{"state_dict": {"head.fc.weight": value}}`` as a pickle of protocol 2."""
    return b"\x80\x02}" + text("state_dict") + b"}" + text("head.fc.weight") + value + b"ss."


class Calls:
    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Opens(torch.nn.Module):
    pass


def reached(canary: Path) -> dict[str, bytes]:
    """Through names that checkpoints need."""
    code, path = text(f"open({str(canary)!r}, 'w')"), text(str(canary))
    module = called(GETATTR, GETATTR, text("__self__"))
    run, open_ = called(GETATTR, module, text("exec")), called(GETATTR, module, text("open"))
    history, method = instance(HISTORY), called(GETATTR, HISTORY, text("update"))
    dictionary = called(GETATTR, HISTORY, text("__init__"))
    array = (
        b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85c_codecs\nencode\n"
        + text("b")
        + b"\x85R\x87R"
    )
    objects = called(b"cnumpy\ndtype\n", text("O8"))
    ordered = called(b"ccollections\nOrderedDict\n")
    return {
        "exec by getattr": called(run, code),
        "open by getattr": called(open_, path, text("w")),
        "exec as __setstate__ of a HistoryBuffer": built(history, "__setstate__", run) + code + b"b",
        "open as __setstate__ of a HistoryBuffer": built(history, "__setstate__", open_) + path + b"b",
        "globals of a method": called(GETATTR, method, text("__globals__")),
        "globals of an initialiser": called(GETATTR, dictionary, text("__globals__")),
        "class of a buffer": called(GETATTR, called(GETATTR, HISTORY, text("__class__")), text("mro")),
        "statistics of a buffer": built(history, "statistics_methods", b"}" + text("mean") + run + b"s"),
        "arguments of a script": built(instance(b"cargparse\nNamespace\n"), "__setstate__", run) + code + b"b",
        "attributes of a dictionary": built(ordered, "items", b"ctorch._utils\n_rebuild_tensor_v2\n"),
        "an array of objects": array + b"(K\x01K\x01\x85" + objects + b"\x89]" + called(run, code) + b"atb",
        "an array of pointers": array + b"(K\x01K\x01\x85" + objects + b"\x89" + text("A" * 8) + b"tb",
        "a type of Python's objects": built(objects, "a", b"N"),
        "numpy's loader": called(b"cnumpy\nload\n", path),
        "torch's loader": called(b"ctorch.serialization\nload\n", path),
        "a module of torch": instance(b"ctorch.nn.modules.linear\nLinear\n"),
        "a function by its type": called(b"ctorch._tensor\n_rebuild_from_type_v2\n", open_, b"N", path + b"\x85", b"N"),
    }


def globals_called(canary: Path) -> dict[str, bytes]:
    """A global of the standard library or of a package, in every protocol."""
    import os
    import runpy
    import subprocess

    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w')"
    calls = {
        "os.system": Calls(os.system, touch),
        "os.mkdir": Calls(os.mkdir, str(canary)),
        "subprocess": Calls(subprocess.check_call, ["touch", str(canary)]),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "open": Calls(open, str(canary), "w"),
        "import": Calls(builtins.__import__, "antigravity"),
        "runpy": Calls(runpy.run_path, str(canary)),
        "numpy.save": Calls(np.save, str(canary), 1),
    }
    return {
        f"{name}, protocol {protocol}": pickle.dumps({"state_dict": {"x": call}}, protocol)
        for name, call in calls.items()
        for protocol in (0, 2, 4, 5)
    }


def containers(canary: Path, folder: Path) -> dict[str, bytes]:
    """Other containers than torch's present one."""
    import os

    bad = pickle.dumps({"state_dict": {"x": Calls(os.mkdir, str(canary))}}, 2)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = len(bad)
            tar.addfile(member, io.BytesIO(bad))
    script, old = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(Opens()), script)
    torch.save({"state_dict": {"x": Calls(os.mkdir, str(canary))}}, old, _use_new_zipfile_serialization=False)
    np.savez(folder / "objects.npz", a=np.array([Calls(os.mkdir, str(canary))], dtype=object))
    return {
        "tar": out.getvalue(),
        "TorchScript": script.getvalue(),
        "torch's old format": old.getvalue(),
        "packed zip": archive(bad, packed=True),
        "zip with constants.pkl": archive(pickle.dumps({}, 2), **{"constants.pkl": bad, "code/__torch__.py": b"1/0"}),
        "npz of objects": (folder / "objects.npz").read_bytes(),
        "nested lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "not a dictionary": pickle.dumps([1, 2], 2),
    }


def evil_files(canary: Path, folder: Path) -> dict[str, bytes]:
    """Every payload by its name, as a torch archive and bare."""
    files = dict(containers(canary, folder))
    for name, value in reached(canary).items():
        pickletools.genops(checkpoint(value))
        files[f"{name} (archive)"], files[f"{name} (bare)"] = archive(checkpoint(value)), checkpoint(value)
    for name, value in globals_called(canary).items():
        files[f"{name} (archive)"], files[f"{name} (bare)"] = archive(value), value
    return files
