# Convpass on VTAB-1k with ViT-B/16: the values of JieShibo/PETL-ViT, convpass/vtab.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=["model.backbone.method.scale", "model.backbone.method.conv"],
    cifar=[0.1, "identity"],
    caltech101=[1, "identity"],
    dtd=[0.01, "xavier"],
    oxford_flowers102=[0.1, "xavier"],
    oxford_iiit_pet=[1, "xavier"],
    svhn=[100, "xavier"],
    sun397=[0.1, "identity"],
    patch_camelyon=[10, "identity"],
    eurosat=[10, "identity"],
    resisc45=[10, "identity"],
    diabetic_retinopathy=[1, "identity"],
    clevr_count=[1, "identity"],
    clevr_dist=[0.1, "xavier"],
    dmlab=[10, "identity"],
    kitti=[10, "xavier"],
    dsprites_loc=[100, "xavier"],
    dsprites_ori=[0.1, "xavier"],
    smallnorb_azi=[100, "xavier"],
    smallnorb_ele=[1, "xavier"],
)
