"""From a trained adapter to a plain checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine import Config
from torch import Tensor, nn

from vpeft.apis.adapters import detach, merge, plain_state_dict
from vpeft.apis.config.load import plain_config
from vpeft.core.adaptation.find import backbone_prefix, find_adaptation, find_adaptations
from vpeft.core.adaptation.values.precision import HALF
from vpeft.core.models.build import build_model
from vpeft.core.trained.load import load_trained, stored_metadata
from vpeft.core.trained.merged_file import write_merged
from vpeft.core.trained.record import run_record
from vpeft.errors import UserError

#: Largest differences of outputs, relative to the largest output: merging in float64, and the rounding of the
#: merged weights to the type in which they are written.
MERGED_TOLERANCE = 1e-8
WRITTEN_TOLERANCE = 1e-3


def export_merged(cfg: Config, checkpoint: str, out: str) -> dict[str, float]:
    """Merge, verify on random input, and write a checkpoint that the plain config loads strictly.

    Args:
        cfg: The run's config.
        checkpoint: Its ``epoch_*.pth`` or its adapter file.
        out: The plain checkpoint, ``.pth`` or ``.safetensors``.

    Returns:
        ``merged`` and ``written``: the largest difference between the adapted and the merged backbone's outputs in
        float64, and between the adapted one's and those of the plain one with the written weights, both relative to the
        largest output; ``tensors`` written.

    Raises:
        UserError: Nothing is written: the method cannot be merged, or the outputs differ.
    """
    if Path(out).suffix not in (".pth", ".safetensors"):
        raise UserError(f"{out}: give a name that ends in .pth or .safetensors.")
    model = load_trained(cfg, checkpoint)
    images = random_images(model, cfg)
    dtypes = {key: value.dtype for key, value in plain_state_dict(model).items()}
    if any(one.lowered is not None for one in find_adaptations(model).values()):  # the plain config knows no base_dtype
        dtypes = {key: torch.float32 if dtype in HALF else dtype for key, dtype in dtypes.items()}
    model.double()
    place = backbone_prefix(model).rstrip(".")
    before = backbone_outputs(model, place, images)
    left = merge(model)
    if left:
        raise UserError(f"{', '.join(left)} cannot be merged: the plain config could not hold it. Nothing was written.")
    merged = largest_difference(before, backbone_outputs(model, place, images))
    detach(model, restore=False)
    state = {key: value.to(dtypes[key]) for key, value in model.state_dict().items()}
    plain = build_model(plain_config(cfg))
    plain.load_state_dict(state, strict=True)
    written = largest_difference(before, backbone_outputs(plain.double().eval(), place, images))
    if not (merged <= MERGED_TOLERANCE and written <= WRITTEN_TOLERANCE):
        raise UserError(
            f"the plain model's output differs from the adapted one's by {merged:.1e} (merged, float64) and "
            f"{written:.1e} (as written), relative to the largest output: nothing was written."
        )
    plain_cfg = plain_config(cfg)
    write_merged(state, Path(out), run_record(plain_cfg), stored_metadata(checkpoint).get("classes"))
    return {"merged": merged, "written": written, "tensors": len(state)}


def random_images(model: nn.Module, cfg: Config, count: int = 2) -> Tensor:
    """Random images ``(count, C, H, W)`` or clips ``(count, C, T, H, W)`` in float64.

    Their size is that of the config's backbone; clips are 8 x 64 x 64 where it takes any.
    """
    backbone = cfg.model.backbone
    host = find_adaptation(model).host
    convolutions = (m for m in host.embedding.modules() if isinstance(m, nn.modules.conv._ConvNd))
    patch = next(convolutions, host.modules.get("patch_embed"))  # of several the first sees the image
    clips = len(patch.kernel_size) == 3
    size = cfg.get("image_size") or backbone.get("img_size", 64 if clips else 224)
    size = (size, size) if isinstance(size, int) else tuple(size)
    if clips:
        size = (backbone.get("num_frames", 8), *size)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, patch.in_channels, *size, generator=generator, dtype=torch.float64)


@torch.no_grad()
def backbone_outputs(model: nn.Module, backbone: str, images: Tensor) -> Tensor:
    """All outputs of the backbone in one vector: what stands behind it is the same, and asks for more than images."""
    out = model.get_submodule(backbone)(images)
    return torch.cat([one.flatten() for one in (out if isinstance(out, (tuple, list)) else (out,))])


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference between two outputs, relative to the largest of the first."""
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))
