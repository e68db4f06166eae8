# Adapter+ on VTAB-1k with ViT-B/16: the widths of visinf/adapter_plus, conf/experiment/vtab/adapter_plus_dim1-32.yaml.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=["model.backbone.method.bottleneck"],
    cifar=[1],
    caltech101=[4],
    dtd=[2],
    oxford_flowers102=[1],
    oxford_iiit_pet=[8],
    svhn=[16],
    sun397=[1],
    patch_camelyon=[16],
    eurosat=[2],
    resisc45=[32],
    diabetic_retinopathy=[32],
    clevr_count=[4],
    clevr_dist=[8],
    dmlab=[8],
    kitti=[8],
    dsprites_loc=[32],
    dsprites_ori=[4],
    smallnorb_azi=[32],
    smallnorb_ele=[8],
)
