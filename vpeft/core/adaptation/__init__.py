"""What happens to a model that is adapted? Attaching, switching, merging, storing, training, reporting."""

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.attach import attach
from vpeft.core.adaptation.find import backbone_prefix, find_adaptation, get_adaptation
from vpeft.core.backbones.host import is_peft_key

__all__ = ["Adaptation", "attach", "backbone_prefix", "find_adaptation", "get_adaptation", "is_peft_key"]
