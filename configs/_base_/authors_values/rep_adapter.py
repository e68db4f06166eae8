# RepAdapter on VTAB-1k with ViT-B/16: the values of luogen1996/RepAdapter, configs.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=["model.backbone.method.scale"],
    cifar=[0.1],
    caltech101=[5],
    dtd=[1],
    oxford_flowers102=[0.5],
    oxford_iiit_pet=[0.1],
    svhn=[10],
    sun397=[0.1],
    patch_camelyon=[1],
    eurosat=[1],
    resisc45=[5],
    diabetic_retinopathy=[0.1],
    clevr_count=[0.5],
    clevr_dist=[0.1],
    dmlab=[5],
    kitti=[5],
    dsprites_loc=[5],
    dsprites_ori=[0.1],
    smallnorb_azi=[10],
    smallnorb_ele=[1],
)
