# FacT-TT on VTAB-1k with ViT-B/16: the values of JieShibo/PETL-ViT, FacT/configs.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=["model.backbone.method.rank", "model.backbone.method.scale"],
    cifar=[8, 1],
    caltech101=[16, 10],
    dtd=[8, 0.01],
    oxford_flowers102=[16, 1],
    oxford_iiit_pet=[8, 1],
    svhn=[16, 100],
    sun397=[8, 1],
    patch_camelyon=[8, 10],
    eurosat=[8, 100],
    resisc45=[8, 0.1],
    diabetic_retinopathy=[8, 1],
    clevr_count=[16, 1],
    clevr_dist=[4, 10],
    dmlab=[16, 10],
    kitti=[16, 10],
    dsprites_loc=[16, 100],
    dsprites_ori=[16, 1],
    smallnorb_azi=[16, 100],
    smallnorb_ele=[8, 10],
)
