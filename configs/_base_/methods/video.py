# Settings of every method for video with VideoMAE's ViT-B: the sizes of the published table (arXiv 2402.02242) where it
# has the method, those of images else.
_base_ = ["./dense.py"]
methods = dict(
    houlsby=dict(bottleneck=8),
    pfeiffer=dict(bottleneck=8),
    adaptformer=dict(bottleneck=64, scale=0.1),
    adapterplus=dict(bottleneck=8),
    convpass=dict(bottleneck=8),
    dyt=dict(bottleneck=8, scale=0.1),
    prefix=dict(prefix_length=16),
    patt=dict(hidden=32),
    dtl=dict(rank=2),
    dtlplus=dict(rank=2),
    lora=dict(rank=16, alpha=None),
    dora=dict(rank=16),
    rslora=dict(rank=16),
    loraplus=dict(rank=16),
    lora_fa=dict(rank=16),
    pissa=dict(rank=16),
    olora=dict(rank=16),
    mlae=dict(rank=16),
    bapat=dict(hidden=32, bottleneck=64),
    st_adapter=dict(type="ST-Adapter"),
    aim=dict(type="AIM"),
)
