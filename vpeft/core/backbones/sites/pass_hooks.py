"""Where a forward pass begins and ends: hooks of the backbone and of its embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.sites.given_maps import MapsHook
from vpeft.core.backbones.sites.passes import Passes, recomputing
from vpeft.errors import UserError


class WholeCall:
    """Mixin of a backbone: compiled by itself it is one graph with its hooks; torch's own call leaves them outside."""

    plain_class: type

    def _call_impl(self, *args, **kwargs) -> Any:
        return super()._call_impl(*args, **kwargs)


class OpenHook:
    """Forward pre-hook of the backbone; an object, so that it survives ``deepcopy`` and pickle."""

    def __init__(self, passes: Passes) -> None:
        self.passes = passes

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not torch.compiler.is_compiling():
            self.passes.open()


class CloseHook(OpenHook):
    """Forward hook of the backbone."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling():
            self.passes.finish()
        else:
            self.passes.close()


class Begin:
    """Pre-hook of the embedding, with which every forward pass begins however it is called."""

    def __init__(self, host: Any) -> None:
        self.host = host

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if getattr(module, "_is_replica", False):  # its sites would still run the modules of the first device
            raise UserError(
                "nn.DataParallel copies the model to several devices, which an adapted one does not follow: use "
                "DistributedDataParallel (tools/dist_train.sh), or one device."
            )
        if args and isinstance(args[0], torch.fx.Proxy):  # as torchvision's create_feature_extractor passes along
            raise UserError(
                "torch.fx follows a program without values, and what is attached acts on values: fold it in and take "
                "it off before (vpeft.merge(model), then vpeft.detach(model, restore=False)), or use torch.export."
            )
        self.host.backbone.peft_adaptation.before_pass()
        passes = self.host.passes
        training = self.host.backbone.training and not torch.compiler.is_compiling()
        if passes.unheard is not None and training and torch.is_grad_enabled():
            passes.unheard(self.host.backbone.peft_adaptation)
        folded = passes.folded if self.host.frames_in == "batch" else 1
        if (shares := passes.shares) is not None:
            shares.check(len(args[0]) // max(1, folded))
        passes.begin(self.host.prefix, folded)
        if passes.noisy and training:
            passes.current.draw(passes.seed, len(args[0]) // max(1, folded), again=recomputing())


class Embedded(Begin):
    """Hook of the patch embedding: the size of the first map is known."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> None:
        self.host.flow.grid = tuple(self.host.seen(args, output, **given))


def pass_hooks(host: Any) -> Iterator[Any]:
    """Watch where passes of a host begin and end; gives the handles."""
    yield host.backbone.register_forward_pre_hook(OpenHook(host.passes), prepend=True)
    if host.reads_map and host.read_outside is None:
        yield host.backbone.register_forward_hook(MapsHook(host.passes))
    yield host.backbone.register_forward_hook(CloseHook(host.passes), always_call=True)
    yield host.embedding.register_forward_pre_hook(Begin(host))
    if host.blocks:  # without any the stream lies on no map
        yield host.embedding.register_forward_hook(Embedded(host), with_kwargs=True)


class Resized(Begin):
    """Hook of a convolution ``(B, C, *extents)`` between the blocks that gives the map other extents."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.host.flow.grid = tuple(output.shape[2:])
