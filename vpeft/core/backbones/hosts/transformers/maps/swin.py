"""transformers' Swin, and its copies in MaskFormer and Donut."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.shared.checkpointed import Checkpointed, CheckpointedStages
from vpeft.core.backbones.sites.stated_linear import StackedLinear
from vpeft.core.backbones.windows.shifted import WindowBlock, shift_mask, table_bias
from vpeft.errors import UserError
from vpeft.registry import BLOCKS, HOSTS

_COPIES = ("{0}.Swin", "{0}.MaskFormerSwin", "{0}.DonutSwin")


def inner_classes(*prefixes: str) -> dict[str, tuple[str, ...]]:
    """Classes of a layer's inner modules, by the beginnings of their names."""
    inner = {"attention": "Attention", "attention.self": "SelfAttention", "attention.output": "SelfOutput"}
    inner |= {"intermediate": "Intermediate", "output": "Output"}
    return {path: tuple(prefix + name for prefix in prefixes) for path, name in inner.items()}


@BLOCKS.register_module(name="transformers.SwinLayer")
class HFSwinLayer(WindowBlock):
    """``SwinLayer``: queries, keys and values apart, and DropPath on the attention alone."""

    site_targets = (
        "transformers.models.swin.modeling_swin.SwinLayer",
        "transformers.models.maskformer.modeling_maskformer_swin.MaskFormerSwinLayer",
        "transformers.models.donut.modeling_donut_swin.DonutSwinLayer",
    )
    site_parts = inner_classes(*_COPIES)
    free_keys = True

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        if block.attention.pruned_heads:
            return "pruned heads are not re-stated."
        if not isinstance(block.intermediate.intermediate_act_fn, nn.Module):
            return "an activation that is no module is not re-stated: name it in the config (hidden_act='gelu')."
        return None

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        return block.attention.self.num_attention_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StackedLinear]:
        attn = block.attention.self
        return {
            "norm1": block.layernorm_before,
            "qkv": StackedLinear(attn.query, attn.key, attn.value),
            "proj": block.attention.output.dense,
            "norm2": block.layernorm_after,
            "fc1": block.intermediate.dense,
            "act": block.intermediate.intermediate_act_fn,
            "fc2": block.output.dense,
        }

    def site_norm1(self, x: Tensor) -> Tensor:
        return self.layernorm_before(x)

    def site_window_size(self, extents: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (int(self.window_size),) * 2, (int(self.shift_size),) * 2

    def site_mask(
        self, padded: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
    ) -> Tensor | None:
        return shift_mask(padded, window, shift, device) if any(shift) else None

    def site_window(self, x: Tensor, mask: Tensor | None, area: int, kept: list[Tensor] | None = None) -> Tensor:
        """As :meth:`WindowBlock.site_window`; ``kept`` takes the attention weights."""
        shape = (*x.shape[:2], self.site_heads(self), -1)
        q, k, v = (t.view(shape).transpose(1, 2) for t in self.site_linears("qkv", x))
        scores = functools.partial(self.site_scores, mask=mask, area=area)
        q, k, v, _ = self.site_core(q, k, v, x, scores)
        weights = self.attention.self.dropout(scores(q, k).softmax(dim=-1))
        if kept is not None:
            kept.append(weights)
        y = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous().flatten(2)
        return self.attention.output(y, x)

    def site_products(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.attention.self.attention_head_size)

    def site_bias(self, area: int) -> Tensor:
        attn = self.attention.self
        return table_bias(attn.relative_position_bias_table, attn.relative_position_index, math.prod(attn.window_size))

    def site_drop1(self, x: Tensor) -> Tensor:
        return self.drop_path(x)

    def site_norm2(self, x: Tensor) -> Tensor:
        return self.layernorm_after(x)

    def site_mlp(self, x: Tensor) -> Tensor:
        return self.output(self.intermediate(x))

    def site_drop2(self, x: Tensor) -> Tensor:
        return x

    def forward(
        self,
        hidden_states: Tensor,
        input_dimensions: tuple[int, int],
        head_mask: Tensor | None = None,
        output_attentions: bool | None = False,
        always_partition: bool | None = False,
    ) -> tuple[Tensor, ...]:
        if head_mask is not None:
            raise UserError("a head_mask is not re-stated by this host: leave it out.")
        if not always_partition and hasattr(self, "set_shift_and_window_size"):
            self.set_shift_and_window_size(input_dimensions)
        kept: list[Tensor] = []
        given = {"kept": kept} if output_attentions else {}
        return self.site_forward(hidden_states, input_dimensions, **given), *kept


@HOSTS.register_module(name="transformers.SwinModel")
class HFSwin(Host):
    """``SwinModel`` of transformers, of MaskFormer and of Donut; its last norm is left out in Donut."""

    targets = (
        "transformers.models.swin.modeling_swin.SwinModel",
        "transformers.models.donut.modeling_donut_swin.DonutSwinModel",
    )
    backbone_mixin = Checkpointed

    def describe(self) -> None:
        self.add_stages(self.backbone)
        self.pools_map = True
        self.add_sites(norm_0=getattr(self.backbone, "layernorm", None))

    def add_stages(self, model: nn.Module, name: str = "") -> None:
        """State embedding, blocks and patch mergings of a model whose name in the backbone is ``name``."""
        for stage, layer in enumerate(model.encoder.layers):
            self.add_blocks(layer.blocks, f"{name}encoder.layers.{stage}.blocks", stage)
            if layer.downsample is not None:
                self.modules[f"downsample{stage + 1}.norm"] = layer.downsample.norm
                self.modules[f"downsample{stage + 1}.reduction"] = layer.downsample.reduction
        self.embeds(model.embeddings.patch_embeddings.projection)
        self.modules["patch_norm"] = model.embeddings.norm
        self.special = {f"{name}embeddings.position_embeddings": "pos_embed", f"{name}embeddings.mask_token": "unused"}
        self.stages = model.encoder.layers

    def downsample_map(self, stage: int, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.stages[stage - 1].downsample(tokens, grid)

    def stage_end(self, stage: int) -> Block:
        """The last block of a stage."""
        return [block for block in self.blocks if block.stage == stage][-1]


class HFSwinMaps(HFSwin):
    """What gives maps of several stages, each through a norm of its own, if any."""

    def describe(self) -> None:
        self.add_stages(self.backbone)
        self.reads_map = True
        norms = getattr(self.backbone, "hidden_states_norms", {})
        for name, norm in norms.items():
            self.modules["stem_norm" if name == "stem" else f"norm.{int(name.removeprefix('stage')) - 1}"] = norm
        stages = [int(name.removeprefix("stage")) - 1 for name in self.backbone.out_features if name != "stem"]
        self.read_stages(stages)

    def read_stages(self, stages: list[int]) -> None:
        """State the stages whose maps leave the backbone.

        Raises:
            UserError: What the last stage gives is not among them.
        """
        self.outputs = [self.stage_end(stage).index for stage in sorted(stages)]
        if not stages or max(stages) != self.blocks[-1].stage:
            raise UserError(
                f"out_features={list(self.backbone.out_features)} leaves out the last stage, whose blocks would be "
                f"adapted for nothing: add {self.backbone.stage_names[-1]!r}, or build the backbone without it."
            )

    def last_block(self, norm: str) -> Block:
        return self.stage_end(int(norm.removeprefix("norm.")))


@HOSTS.register_module(name="transformers.SwinBackbone")
class HFSwinBackbone(HFSwinMaps):
    """``SwinBackbone``, as Mask2Former and UperNet hold it: a map, normed, of each of its ``out_features``."""

    targets = ("transformers.models.swin.modeling_swin.SwinBackbone",)


@HOSTS.register_module(name="transformers.MaskFormerSwinBackbone")
class HFMaskFormerSwin(HFSwinMaps):
    """``MaskFormerSwinBackbone``; the last norm of the model in it, and norms of stages left out, lead nowhere."""

    targets = ("transformers.models.maskformer.modeling_maskformer_swin.MaskFormerSwinBackbone",)
    backbone_mixin = CheckpointedStages

    def describe(self) -> None:
        backbone = self.backbone
        self.add_stages(backbone.model, "model.")
        self.reads_map = True
        stages = [backbone.stage_names.index(name) - 1 for name in backbone.out_features]
        for stage, norm in enumerate(backbone.hidden_states_norms):
            if stage in stages:
                self.modules[f"norm.{stage}"] = norm
            else:
                self.special |= {f"hidden_states_norms.{stage}.{name}": "unused" for name, _ in norm.named_parameters()}
        self.special |= {f"model.layernorm.{name}": "unused" for name, _ in backbone.model.layernorm.named_parameters()}
        self.read_stages(stages)
