"""To how many networks of timm, torchvision and transformers does LoRA attach by the generic host, every tensor acting?

    python benchmarks/hosts/generic_share.py                  # every name of timm, on the meta device: about 20 minutes
    python benchmarks/hosts/generic_share.py --shard 2/8      # every eighth name, from the second
    python benchmarks/hosts/generic_share.py --library torchvision
    python benchmarks/hosts/generic_share.py --library transformers  # the models of images, by their types

Each network is read by the generic host, also where it has a host of its own. A tensor acts where autograd's graph
leads from the output to it. The last line is the share; the lines before it name what is refused, with the reason, and
what is left out of the share, since the library itself does not build it here or cannot call it with images alone.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import vpeft  # isort: skip  mends torchvision

import timm
import torch
import torchvision
import transformers
from torch import nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.backbones.generic import read_generic
from vpeft.core.backbones.host import is_peft_key
from vpeft.core.backbones.probing.inputs import Call, call_with, guesses
from vpeft.core.backbones.probing.watch import leaves, tensors
from vpeft.core.contract.build import build_methods


def timm_model(name: str) -> nn.Module:
    """A network of timm on the meta device, or on the CPU where its constructor computes."""
    try:
        with torch.device("meta"):
            return timm.create_model(name)
    except Exception:
        return timm.create_model(name)


def torchvision_model(name: str) -> nn.Module:
    """A network of torchvision on the meta device."""
    parameters = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    untrained = {name: None for name in ("weights", "weights_backbone") if name in parameters}
    with torch.device("meta"):
        return torchvision.models.get_model(name, **untrained)


def transformers_types() -> list[str]:
    """The types of transformers' models that are called with images alone."""
    named = {
        kind: config for kind, config in transformers.CONFIG_MAPPING.items() if config in transformers.MODEL_MAPPING
    }
    classes = {kind: transformers.MODEL_MAPPING[config] for kind, config in named.items()}
    return sorted(kind for kind, cls in classes.items() if _takes_images_alone(cls))


def _takes_images_alone(cls: Any) -> bool:
    cls = cls[0] if isinstance(cls, tuple) else cls
    return cls.main_input_name == "pixel_values" and "input_ids" not in inspect.signature(cls.forward).parameters


def transformers_model(name: str) -> nn.Module:
    """A network of transformers of its config's own size, on the CPU: its values are not drawn."""
    config = transformers.AutoConfig.for_model(name)
    if getattr(config, "use_pretrained_backbone", False):
        config.use_pretrained_backbone = False
    with transformers.modeling_utils.no_init_weights():
        return transformers.AutoModel.from_config(config)


LIBRARIES: dict[str, tuple[Callable[[], list[str]], Callable[[str], nn.Module]]] = {
    "timm": (timm.list_models, timm_model),
    "transformers": (transformers_types, transformers_model),
    "torchvision": (torchvision.models.list_models, torchvision_model),
}


def silent(model: nn.Module, sample: Any = None) -> list[str]:
    """Attach LoRA by the generic host and name the PEFT tensors on which the output does not depend.

    Raises:
        vpeft.UserError: It is refused.
    """
    Adaptation(read_generic(model, "", sample), build_methods("LoRA")).place()
    calls = [call for _, call in guesses(model)] if sample is None else [call_with(sample)]
    reached = {id(leaf) for leaf in leaves(tensors(first_output(model.eval(), calls)))}
    return [name for name, param in model.named_parameters() if is_peft_key(name) and id(param) not in reached]


def first_output(model: nn.Module, calls: list[Call]) -> Any:
    """What the first call that runs gives."""
    for call in calls[:-1]:
        try:
            return call(model)
        except Exception:
            continue
    return calls[-1](model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", choices=LIBRARIES, default="timm")
    parser.add_argument("--shard", default="1/1", help="which of how many, as 2/8")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    listed, build = LIBRARIES[args.library]
    first, step = map(int, args.shard.split("/"))
    names, right, left, start = listed()[first - 1 :: step], 0, 0, time.time()
    for name in names:
        reason, own = looked_at(name, build)
        left += own
        right += not reason
        if reason:
            print(f"{name}: {'left out: ' * own}{' '.join(reason.split())[:300]}", flush=True)
    count = len(names) - left
    print(
        f"{args.library}: {right} of {count} names = {100 * right / count:.1f} % ({left} left out), "
        f"{time.time() - start:.0f} s"
    )


def looked_at(name: str, build: Callable[[str], nn.Module]) -> tuple[str, bool]:
    """Why LoRA does not attach with every tensor acting, empty where it does; and whether the library is the reason."""
    try:
        model = build(name)
    except Exception as error:
        return f"not built: {type(error).__name__}: {error}", True
    try:
        dead = silent(model)
        return (f"{len(dead)} tensors do not act: {dead[:2]}" if dead else ""), False
    except vpeft.UserError as error:
        reason = f"refused: {error}"
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    try:
        model = build(name)
        first_output(model.eval(), [call for _, call in guesses(model)])
    except Exception as error:
        return f"cannot be called: {type(error).__name__}: {error}", True
    return reason, False


if __name__ == "__main__":
    main()
