"""What everything else stands on: data, backbones, the contract of a method, the life of an adaptation, runs, hooks."""

from vpeft import compat  # isort: skip  # noqa: F401  (before any package that it mends)

from vpeft.core import backbones, datasets, hooks  # noqa: F401  (register)
from vpeft.core.adaptation import peft_backbone  # noqa: F401  (register)
from vpeft.core.adaptation.training import parameter_groups  # noqa: F401  (register)
from vpeft.core.models import feature_pyramid, maps  # noqa: F401  (register)
