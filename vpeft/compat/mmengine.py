"""Mends of mmengine."""

from __future__ import annotations

import functools
from typing import Any

import torch


def mmengine_non_reentrant_checkpointing() -> None:
    """mmengine 0.10.12: ``activation_checkpointing`` uses the re-entrant form of torch.

    Over a frozen first block that form gives the adapters inside no gradient, with a warning only.
    """
    from mmengine.runner import activation_checkpointing

    original = torch.utils.checkpoint.checkpoint
    if activation_checkpointing.checkpoint is original:
        activation_checkpointing.checkpoint = functools.partial(original, use_reentrant=False)


def mmengine_silent_debug() -> None:
    """mmengine 0.10.12: ``print_log`` without a logger prints messages of the level DEBUG to the standard output.

    mmpretrain, mmdet and mmseg so announce at import an extra that is not installed, and spoil what is piped.
    """
    import logging

    from mmengine import logging as mmengine_logging

    original = mmengine_logging.print_log

    @functools.wraps(original)
    def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        if logger is not None or level > logging.DEBUG:
            original(msg, logger, level)

    mmengine_logging.print_log = mmengine_logging.logger.print_log = print_log


def mmengine_safe_load() -> None:
    """mmengine 0.10.12: ``load_checkpoint`` falls back to full unpickling, which can run code from the file.

    Here a file that is no plain checkpoint is refused, and a truncated one is named.
    """
    from pickle import UnpicklingError

    from mmengine.runner import checkpoint

    from vpeft.errors import UserError

    def load(file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        name = file if isinstance(file, str) else "the checkpoint"
        try:
            with torch.serialization.safe_globals(checkpoint.get_torch_safe_globals()):
                return torch.load(file, map_location=map_location, weights_only=True)
        except UnpicklingError as error:
            raise UserError(
                f"{name} holds objects that only running its code could load, or is no checkpoint "
                f"({str(error).splitlines()[0][:120]}): convert it to tensors (safetensors) where you trust it."
            ) from error
        except (RuntimeError, EOFError) as error:
            raise UserError(
                f"{name} is truncated or no checkpoint ({str(error).splitlines()[0][:120]}): copy or train it again."
            ) from error

    checkpoint._safe_torch_load = load


def mmengine_atomic_write() -> None:
    """mmengine 0.10.12: files are written in place, so a kill or a full disk leaves half a checkpoint behind."""
    from mmengine.fileio.backends import LocalBackend

    from vpeft.files import write_atomically

    def put(self: LocalBackend, obj: bytes, filepath: str) -> None:
        write_atomically(filepath, obj)

    def put_text(self: LocalBackend, obj: str, filepath: str, encoding: str = "utf-8") -> None:
        write_atomically(filepath, obj.encode(encoding))

    LocalBackend.put, LocalBackend.put_text = put, put_text


def mmengine_distributed_on_cpu() -> None:
    """mmengine 0.10.12: its launcher sets a CUDA device even for gloo on a machine without one."""
    from mmengine.dist import utils

    original = utils._init_dist_pytorch

    @functools.wraps(original)
    def init(backend: str, init_backend: str = "torch", **kwargs: Any) -> None:
        if backend == "gloo" and init_backend == "torch" and not torch.cuda.is_available():
            torch.distributed.init_process_group(backend=backend, **kwargs)
        else:
            original(backend, init_backend=init_backend, **kwargs)

    utils._init_dist_pytorch = init
