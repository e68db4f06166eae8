"""Class attention behind the blocks of timm's CaiT, XCiT and VOLO."""

from __future__ import annotations

from vpeft.core.backbones.host import Host


def add_class_attention(host: Host, name: str) -> None:
    """State the blocks behind all others in which only the class token asks, and the norm behind them.

    They pool the map, as an attention pool does: what goes by roles trains them, and nothing is placed in them.

    Args:
        host: The host.
        name: What holds these blocks in the backbone; where they were pruned, the norm is that of the blocks' output.
    """
    blocks, norm = getattr(host.backbone, name), host.backbone.norm
    host.special["cls_token"] = "cls_token"
    if blocks is None:
        host.add_sites(norm_0=norm)
        return
    host.add_sites(pool_norm=norm)
    scales = (key for key, _ in blocks.named_parameters() if key.split(".")[-1].startswith("gamma"))
    host.special |= {f"{name}.{key}": "layer_scale" for key in scales}
