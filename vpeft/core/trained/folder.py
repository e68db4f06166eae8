"""What stands in a run's folder, by name."""

from __future__ import annotations

#: What was learned, at the end of the training.
ADAPTER = "adapter.safetensors"
#: What was learned, at the moment that ``CheckpointHook`` with ``save_best`` chose.
BEST_ADAPTER = "adapter_best.safetensors"
#: What the last test has shown.
RESULT = "result.json"
#: Class scores of the test images.
LOGITS = "logits.safetensors"
#: Who set which key of the config.
ORIGIN = "config_origin.json"
#: Held by the process that trains there.
LOCK = ".lock"
