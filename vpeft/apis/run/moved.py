"""A run whose folder has been moved or copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner


class MovedRunHook(Hook):
    """Lets a resumed run keep its best checkpoint where it stands now.

    mmengine notes the best checkpoint by the path that it was written to, and deletes that file as soon as there is a
    better one: in a copied folder it would be the one of the run that was copied.
    """

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Bring the paths home."""
        if not runner._resume or any(hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook)):
            return
        noted = checkpoint.get("message_hub", {}).get("runtime_info", {})
        for key, path in list(noted.items()):
            if key.startswith("best_ckpt") and isinstance(path, str):
                here = Path(runner.work_dir) / Path(path).name
                if here.is_file():
                    noted[key] = str(here)
                else:
                    del noted[key]
