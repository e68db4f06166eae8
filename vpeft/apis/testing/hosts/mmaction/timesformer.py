"""mmaction's TimeSformer."""

from torch import Tensor, nn

from vpeft.apis.testing.hosts.tiny import tiny


def all_tokens(model: nn.Module, clips: Tensor) -> Tensor:
    """What the output norm gives out, of which the model hands on the class token alone."""
    kept = []
    hook = model.norm.register_forward_hook(lambda norm, args, output: kept.append(output))
    model(clips)
    hook.remove()
    return kept[0]


@tiny(
    "mmaction.TimeSformer",
    (3, 3, 16, 16),
    grid=(3, 2, 2),
    prefix=1,
    variants={"one-frame": ({"num_frames": 1}, (3, 1, 16, 16)), "dropout": {"dropout_ratio": 0.1}},
    call=all_tokens,
    larger=({"img_size": 32}, (3, 3, 32, 32)),
)
def timesformer(**options) -> nn.Module:
    from mmaction.models.backbones import TimeSformer
    from mmengine.registry import DefaultScope

    small = {"num_frames": 3, "img_size": 16, "patch_size": 8, "embed_dims": 64, "num_heads": 4}
    with DefaultScope.overwrite_default_scope("mmaction"):  # its layers are found by name
        return TimeSformer(**{**small, "num_transformer_layers": 3, **options})
