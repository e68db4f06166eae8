"""The hyper-parameters that a method's authors state for a task."""

from __future__ import annotations

from typing import Any

from mmengine import Config

from vpeft.core.datasets.tasks import get_task
from vpeft.errors import UserError
from vpeft.registry import nearest


def authors_settings(cfg: Config) -> dict[str, Any]:
    """The hyper-parameters that the method's authors state for a config's task, by dotted key.

    Args:
        cfg: A config with one of the tables of ``configs/_base_/authors_values/``; where its ``authors_values`` is
            not True, nothing follows.

    Raises:
        UserError: There is no table, or the table lacks the task.
    """
    if not (cfg.get("suite") and cfg.get("authors_values")):
        return {}
    table = cfg.get("per_task")
    if table is None:
        raise UserError("authors_values=True, but this config has no per_task table: leave it out.")
    name = get_task(cfg.task, cfg.suite).name
    if name not in table:
        raise UserError(
            f"the per_task table has no row for {name!r}: {nearest(name, [t for t in table if t != 'columns'])}"
        )
    values = dict(zip(table.columns, table[name], strict=True))
    smoothing = values.pop("label_smoothing", 0)
    if smoothing:
        loss = {"_delete_": True, "type": "LabelSmoothLoss", "label_smooth_val": smoothing, "mode": "original"}
        values["model.head.loss"] = loss
    return values
