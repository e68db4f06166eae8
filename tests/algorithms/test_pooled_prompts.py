"""Prompts in the mean of a map that has tokens before it."""

import torch
import torch.nn.functional as F
from support.hosts import build, inputs, perturb

import vpeft


def test_the_mean_runs_over_map_and_prompts_and_not_over_the_prefix():
    model = build("timm.VisionTransformer", global_pool="avg", reg_tokens=2, fc_norm=False)
    perturb(vpeft.attach(model, {"type": "VPTDeep", "prompt_length": 3})).eval()
    images, left = inputs("timm.VisionTransformer", dtype=torch.float64), []
    model.blocks[-1].register_forward_hook(lambda module, args, out: left.append(out))
    pooled = model.pool(model.forward_features(images))
    flow = model.peft_adaptation.host.flow
    tokens = torch.cat((flow.state["vptdeep"][2], left[0][:, 3:]), dim=1)
    norm = model.norm
    expected = F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps).mean(1)
    torch.testing.assert_close(pooled, expected)


def test_the_norm_of_an_earlier_block_is_left_alone():
    model = build("timm.VisionTransformer", global_pool="avg", fc_norm=False)
    perturb(vpeft.attach(model, {"type": "VPTDeep", "prompt_length": 3})).eval()
    images = inputs("timm.VisionTransformer", dtype=torch.float64)
    plain, normed = (model.forward_intermediates(images, norm=norm, output_fmt="NLC")[1][0] for norm in (False, True))
    norm = model.norm
    expected = F.layer_norm(plain, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(normed, expected)
