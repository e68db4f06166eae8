"""What runs cost: each figure has one name and one meaning in result files, tables, boards, pages and figures.

===================  ================================================================================================
``step_ratio``       time of a training step relative to that of a fixed reference model, in turns on the same machine
``step_seconds``     median wall time of a training iteration, data included, as the run went
``saved_bytes``      what autograd keeps of one training batch for the backward pass
``peak_bytes``       the most that one training step allocates at once, gradients and the optimiser's state included,
                     above the parameters
``parameter_bytes``  parameters and buffers of the whole model, frozen and trained
``adapter_bytes``    the file that is shipped
``inference_ratio``  time of a prediction relative to the frozen host without the method
``merged_ratio``     the same after merging
===================  ================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Names of the figures, in their order.
COSTS = (
    "step_ratio",
    "step_seconds",
    "saved_bytes",
    "peak_bytes",
    "parameter_bytes",
    "adapter_bytes",
    "inference_ratio",
    "merged_ratio",
)
#: What ``peak_memory_bytes`` of former results was where it is ``saved_bytes``, in the words of their ``memory_is``. On
#: an accelerator it was what the whole run held at most, weights included, which is none of these figures.
FORMERLY_SAVED = "kept for the backward pass of a batch"
#: Load per processor above which a time is marked: a quarter more than the machine can do at once.
BUSY = 1.25


def costs_of(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a result file, also of a former one; None where it has none, as of a run that failed."""
    cost = result.get("cost") or {}
    found = {name: cost.get(name) for name in COSTS}
    if found["saved_bytes"] is None and cost.get("memory_is") == FORMERLY_SAVED:
        found["saved_bytes"] = cost.get("peak_memory_bytes")
    return found


def is_busy(result: Mapping[str, Any]) -> bool:
    """Whether times of a run were taken while more work waited than its machine can do; False where it is not known.

    Where the rounds of the step were counted, fewer quiet ones than there had to be say so; else the machine's load.
    """
    cost = result["cost"]
    if cost.get("quiet_rounds") is not None:
        return cost["quiet_rounds"] < (cost.get("step_rounds") or 0)
    return (cost.get("load") or 0) > BUSY
