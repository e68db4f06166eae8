# Sizes of the robustness study (arXiv 2409.16434, CLIP ViT-B/16 on 100-shot ImageNet); one recipe for all of them.
methods = dict(
    full=dict(type="Full"),
    linear=dict(type="Linear"),
    lntune=dict(type="LNTune"),
    bitfit=dict(type="BitFit"),
    difffit=dict(type="DiffFit"),
    vptdeep=dict(type="VPTDeep", prompt_length=50),
    fact_tk=dict(type="FacT-TK", rank=32, layout="official"),
    houlsby=dict(type="HoulsbyAdapter", bottleneck=32),
    adaptformer=dict(type="AdaptFormer", bottleneck=32),
    repadapter=dict(type="RepAdapter", bottleneck=32),
    lora=dict(type="LoRA", rank=32),
    convpass=dict(type="Convpass", bottleneck=32),
)
