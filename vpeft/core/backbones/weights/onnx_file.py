"""The weights in an ONNX file, by the names of the modules that it was exported from; its graph is read, never run.

Exporters keep the names of what a graph uses as it is, and give numbers to what they have transposed or worked out
beforehand, the matrices of all linears above all. Which module such a tensor belongs to says the name of the node that
uses it: ``/encoder/layer.0/mlp/fc1/MatMul`` has the transposed weight of ``encoder.layer.0.mlp.fc1``.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpeft.errors import UserError, missing_package

#: What the inputs of a node are to the module that it is of; ``.T`` where they stand transposed.
ROLES = {
    "MatMul": {1: "weight.T"},
    "Gemm": {1: "weight.T", 2: "bias"},
    "Conv": {1: "weight", 2: "bias"},
    "LayerNormalization": {1: "weight", 2: "bias"},
    "Mul": {0: "weight", 1: "weight"},
    "Add": {0: "bias", 1: "bias"},
}
#: A name that an exporter has made up.
_MADE_UP = re.compile(r"onnx::\w+|\d+|val_\d+|/.*|_v_\d+|.*_output_\d+")
#: Of a table of positions, in transformers.
_POSITIONS = "position_embeddings"


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The tensors of an ONNX file by the names of modules.

    A table of positions that was taken apart, into the class token's and the patches', is put together again as
    ``position_embeddings`` of the module that uses the parts.

    Raises:
        UserError: ``onnx`` is not installed, the file is damaged, or it keeps its tensors in other files.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise UserError(missing_package(error)) from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # of protobuf, whose kinds change
        raise UserError(f"cut short, or not an ONNX file ({type(error).__name__}): fetch it again.") from error
    if outside := [one.name for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]:
        raise UserError(f"keeps {len(outside)} of its tensors in other files: export it as one file.")
    held = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    state = {name: _tensor(array) for name, array in held.items() if not _MADE_UP.fullmatch(name)}
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for name, uses in _uses(graph, held).items():
        own = name in state
        modules = {module for module, *_ in uses}
        if own and len(modules) < 2:
            continue
        for module, role, transposed in uses:
            array = held[name].T if transposed else held[name]
            key = f"{module}.{role}" if module else role
            if own and (key == name or not role):
                continue
            if role:
                state.setdefault(key, _tensor(array))
            elif array.ndim == 3 and array.shape[0] == 1 and np.issubdtype(array.dtype, np.floating):
                parts[module].append(_tensor(array))
    for module, tables in parts.items():
        widths = {table.shape[-1] for table in tables}
        if len(widths) == 1:
            # the class token's row stands before those of the patches
            tables.sort(key=lambda table: table.shape[1])
            state.setdefault(f"{module}.{_POSITIONS}" if module else _POSITIONS, torch.cat(tables, 1))
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point() and tensor.ndim > 0}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))  # a copy: those of protobuf are not writable


def _uses(graph: Any, held: dict[str, np.ndarray]) -> dict[str, list[tuple[str, str, bool]]]:
    """Where each initialiser is used: the module, its role there (empty where it is none), whether it is transposed."""
    found: dict[str, list[tuple[str, str, bool]]] = defaultdict(list)
    for node in graph.node:
        module = _module(node.name)
        roles = ROLES.get(node.op_type, {})
        for number, name in enumerate(node.input):
            if name not in held:
                continue
            role, _, turned = _role(roles.get(number, ""), held[name]).partition(".")
            if node.op_type == "Gemm" and number == 1:
                turned = "" if _attribute(node, "transB") else "T"
            found[name].append((module, role, bool(turned)))
    return found


def _module(node: str) -> str:
    """The module that a node is of; ``blocks/blocks.0`` is how the parts of a sequence are named."""
    parts = [part for part in node.split("/")[:-1] if part]
    again = [after.startswith(f"{part}.") for part, after in itertools.pairwise([*parts, ""])]
    return ".".join(part for part, twice in zip(parts, again, strict=True) if not twice)


def _role(role: str, array: np.ndarray) -> str:
    """Elementwise operations have parameters of one axis; what has more is no bias and no scale."""
    return "" if role in ("weight", "bias") and array.ndim in (0, 3) else role


def _attribute(node: Any, name: str) -> int:
    return next((one.i for one in node.attribute if one.name == name), 0)
