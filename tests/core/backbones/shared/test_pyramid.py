"""Pyramids: keys of a reduced map, prompts that bypass its convolutions, checkpointed stages."""

import copy

import pytest
import torch
from support.hosts import build, inputs, loss, perturb, tokens, trained
from transformers import SegformerConfig, SegformerForSemanticSegmentation

import vpeft

PYRAMIDS = ("timm.PyramidVisionTransformerV2", "transformers.PvtV2Model", "transformers.SegformerModel")


@pytest.mark.parametrize("host", PYRAMIDS)
def test_prompts_are_keys_beside_the_reduced_map(host):
    """What leaves a block at the prompts is their own MLP; keys are those of the reduced map and the prompts."""
    model = vpeft.attach(build(host), {"type": "VPTDeep", "prompt_length": 3})
    block = model.peft_adaptation.host.blocks[0]
    seen = []
    plain = block.module.site_core
    block.module.site_core = lambda *args: seen.append(args) or plain(*args)
    tokens(model, inputs(host, dtype=torch.float64))
    q, k, _, x = seen[0]
    assert (q.shape[2], k.shape[2], x.shape[1]) == (16 * 16 + 3, 2 * 2 + 3, 16 * 16 + 3)


def test_checkpointed_stages_give_the_same_gradients():
    plain = perturb(vpeft.attach(build("transformers.PvtV2Model"), "LoRA"))
    again = copy.deepcopy(plain)
    again.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    images = inputs("transformers.PvtV2Model", dtype=torch.float64)
    for model in (plain, again):
        loss(tokens(model.train(), images)).backward()
    for key, param in trained(plain).items():
        assert torch.equal(trained(again)[key].grad, param.grad), key
    again.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(vpeft.UserError, match="use_reentrant': False"):
        again(images)


def test_the_model_of_the_task_gives_attentions_as_before():
    config = {"depths": [1] * 4, "hidden_sizes": [16, 32, 64, 64], "num_attention_heads": [1, 2, 2, 2]}
    plain = SegformerForSemanticSegmentation(SegformerConfig(**config, decoder_hidden_size=32)).eval()
    model = vpeft.attach(copy.deepcopy(plain), "LoRA")
    images = torch.randn(1, 3, 64, 64)
    outs = [m(images, output_attentions=True, output_hidden_states=True) for m in (plain, model)]
    torch.testing.assert_close(outs[0].logits, outs[1].logits)
    for ours, theirs in zip(outs[1].attentions, outs[0].attentions, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert {key.split(".")[0] for key, p in model.named_parameters() if p.requires_grad} == {"segformer", "decode_head"}


def test_a_last_stage_that_nothing_reads_is_refused():
    with pytest.raises(vpeft.UserError, match=r"out_indices=\(0, 1\) leaves out the last stage"):
        vpeft.attach(build("mmseg.MixVisionTransformer", out_indices=(0, 1)), "LoRA")
