"""Decoded images of a run, kept in a store (:mod:`vpeft.core.datasets.decoded`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.dist import barrier
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from vpeft.core.datasets.decoded import close_store, keep_decoded, open_store, release
from vpeft.core.store import Store, byte_count, delete_store
from vpeft.errors import UserError
from vpeft.registry import nearest

#: Of the store, in a run's folder or in that of a benchmark's results.
DECODED = "decoded"
#: Keys of a config's field ``data_store``.
STORE_KEYS = ("limit", "folder", "shared")


@dataclass
class DataStore:
    """The decoded images of a run.

    Attributes:
        folder: Where they are kept.
        limit: Bytes that they may take.
        is_own: Whether the folder is the run's own: it goes when the training has ended.
        is_named: Whether a user has named the folder; where any other cannot be used, the run goes on without.
    """

    folder: Path
    limit: int
    is_own: bool
    is_named: bool

    @classmethod
    def of(cls, cfg: Config) -> DataStore | None:
        """What a config's field ``data_store`` says, None where it asks for none.

        Raises:
            UserError: The field holds something else than ``limit``, ``folder`` and ``shared`` (the folder is that of
                a benchmark or of a search, and nobody has named it), or the limit is no size.
        """
        settings: Mapping[str, Any] = cfg.get("data_store") or {}
        for key in settings:
            if key not in STORE_KEYS:
                raise UserError(f"data_store has no {key!r}: {nearest(key, STORE_KEYS)}")
        if settings.get("limit") is None:
            return None
        folder = settings.get("folder")
        is_named = folder is not None and not settings.get("shared")
        place = Path(folder or Path(cfg.work_dir) / DECODED)
        return cls(place, byte_count(settings["limit"]), folder is None, is_named)

    @classmethod
    def started(cls, cfg: Config, runner: Runner, lasting: bool = False) -> DataStore | None:
        """The store that a config asks for, serving a runner; None where there is none.

        Args:
            cfg: The config.
            runner: The runner.
            lasting: Leave a run's own out, which would end with what is read once.

        Raises:
            UserError: As of :meth:`of`, or the folder that a user has named cannot be used.
        """
        store = cls.of(cfg)
        if store is None or (store.is_own and lasting):
            return None
        try:
            if store.is_own and _on_several_machines():
                raise UserError("the run is of several machines: name a folder on a disk of each (data_store.folder)")
            store.serve(runner)
        except UserError as error:
            if store.is_named:
                raise
            runner.logger.warning(f"images are decoded anew in every epoch: {error}")
            return None
        return store

    def serve(self, runner: Runner) -> None:
        """Let the data sets that a runner builds read from the store.

        Raises:
            UserError: It cannot be opened.
        """
        open_store(self.folder, self.limit)
        build = runner.build_dataloader

        def built(*args: Any, **options: Any) -> DataLoader:
            loader = build(*args, **options)
            keep_decoded(loader.dataset, self.folder, self.limit, runner.logger.info)
            return loader

        runner.build_dataloader = built  # before a loop over iterations starts its workers, which is as it is built

    def end(self, runner: Runner) -> None:
        """Say what is kept; of a run's own store nothing is, for it ends with the training."""
        if runner.rank == 0:
            with contextlib.suppress(UserError):  # it was lost in between
                runner.logger.info(self._said(open_store(self.folder, self.limit)))
        self.close()
        if self.is_own:
            del runner.build_dataloader
            for loop in (runner._train_loop, runner._val_loop):
                if isinstance(loader := getattr(loop, "dataloader", None), DataLoader):
                    release(loader.dataset)
            barrier()
            if runner.rank == 0:
                delete_store(self.folder)

    def _said(self, store: Store) -> str:
        is_full = self.limit - store.used < 2 * store.used / max(1, len(store))
        return (
            f"decoded images: {len(store):,} kept in {self.folder}, {store.used / 1e9:.2f} of "
            f"{self.limit / 1e9:.2f} GB{': it is full, others were decoded anew' if is_full else ''}."
        )

    def close(self) -> None:
        """Let go of it."""
        close_store(self.folder)


def _on_several_machines() -> bool:
    """Whether the processes of this run are of several machines, as torchrun or Slurm says."""
    here = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE")
    return os.environ.get("WORLD_SIZE", here) != here or int(os.environ.get("SLURM_NNODES") or 1) > 1
