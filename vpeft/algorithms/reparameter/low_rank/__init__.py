"""Relatives of LoRA: what else is done with a pair of low-rank matrices."""

from vpeft.algorithms.reparameter.low_rank import (  # noqa: F401  (register)
    ada_lora,
    dora,
    lora_fa,
    lora_plus,
    loramul,
    mlae,
    olora,
    pissa,
    rand_lora,
    rslora,
    vera,
)
