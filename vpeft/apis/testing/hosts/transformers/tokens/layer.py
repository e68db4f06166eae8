"""Small configurations of transformers."""

from torch import nn

#: Options of every tiny model.
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
#: Dropout where it is called so.
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def built(cls: str, attention: str = "sdpa", **options) -> nn.Module:
    """A model of transformers with random weights: ``attention`` is its implementation, options its config's."""
    import transformers

    model = getattr(transformers, cls)
    config = model.config_class(**{**SMALL, **options})
    # MAE freezes its position table.
    return model._from_config(config, attn_implementation=attention).requires_grad_()
