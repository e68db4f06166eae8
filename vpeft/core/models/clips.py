"""``vpeft.ClipBackbone``: a backbone of images, run on the frames of clips."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from vpeft.core.backbones.find import hosts_in
from vpeft.core.backbones.sites.passes import FOLDS_CLIPS
from vpeft.core.models.maps import Backbone
from vpeft.errors import UserError
from vpeft.registry import MODELS


@MODELS.register_module()
class ClipBackbone(BaseModule):
    """An image backbone on clips ``(B, 3, T, H, W)``, for recognisers of mmaction (``Recognizer3D``) and plain Python.

    The frames of all clips are one batch of images ``(B * T, 3, H, W)``; the features of a clip are the mean of those
    of its frames, ``(B, C)``, which ``TimeSformerHead`` and any linear take. Every method for images attaches as to
    the image backbone, and those that look from frame to frame (ST-Adapter, AIM) know which frames are of one clip.

    Args:
        image: The image backbone: a library's network by name (``timm/vit_base_patch16_clip_224.openai``), the config
            of a backbone of OpenMMLab (``dict(type='mmpretrain.VisionTransformer', ...)``), or a module.
        weights: As of ``vpeft.Backbone``, beside a name.
        out: What is read of a network by name, as of ``vpeft.Backbone``: ``pooled``, ``cls`` or ``mean``. Of another
            backbone the last output is read, and the mean over its places where it has any.
        options: Of the library's own function, beside a name.

    Attributes:
        image: The image backbone; the keys of its tensors stand below ``image.``.

    Raises:
        UserError: What ``vpeft.Backbone`` raises, or options stand beside a config or module.
    """

    def __init__(
        self,
        image: str | Mapping[str, Any] | nn.Module,
        weights: str | bool | None = None,
        out: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(image, str):
            self.image: nn.Module = Backbone(image, weights=weights, out=out or "pooled", as_tuple=False, **options)
        else:
            given = [*options, *(name for name, value in (("weights", weights), ("out", out)) if value is not None)]
            if given:
                raise UserError(
                    f"{', '.join(given)} of vpeft.ClipBackbone beside image={type(image).__name__}(...): they are for "
                    "networks by name; put them into the image backbone's own settings."
                )
            self.image = image if isinstance(image, nn.Module) else ROOT_MODELS.build(dict(image))
        self.backbones = tuple(hosts_in(self.image).values())
        for backbone in self.backbones:
            setattr(backbone, FOLDS_CLIPS, True)

    def init_weights(self) -> None:
        """Let the image backbone load its weights."""
        if not self.is_init:
            if hasattr(self.image, "init_weights"):
                self.image.init_weights()
            self._is_init = True

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)``, normalised, to features ``(B, C)``.

        Raises:
            UserError: The input has other dimensions.
        """
        features = _pooled(self.frames(clips))
        return features.unflatten(0, (-1, clips.shape[2])).mean(1)

    def frames(self, clips: Tensor) -> Any:
        """What the image backbone gives for the frames, clip by clip."""
        if clips.dim() != 5:
            raise UserError(
                f"vpeft.ClipBackbone takes clips (B, 3, T, H, W), and a tensor of {tuple(clips.shape)} came: "
                "format_shape='NCTHW' in an mmaction config, clips.unsqueeze(2) for images."
            )
        images = clips.transpose(1, 2).flatten(0, 1)
        with contextlib.ExitStack() as stack:
            for backbone in self.backbones:
                if (adaptation := vars(backbone).get("peft_adaptation")) is not None:
                    stack.enter_context(adaptation.host.passes.clips(clips.shape[2]))
            return self.image(images)


def _pooled(out: Any) -> Tensor:
    """Features ``(B, C)`` of what a backbone gives: the last of several, the mean over its places."""
    while isinstance(out, (tuple, list)):
        out = out[-1]
    if out.dim() == 2:
        return out
    return out.flatten(2).mean(2) if out.dim() > 3 else out.mean(1)
