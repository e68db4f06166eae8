# FacT-TK on VTAB-1k with ViT-B/16: the values of JieShibo/PETL-ViT, FacT/configs.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=["model.backbone.method.rank", "model.backbone.method.scale"],
    cifar=[32, 0.1],
    caltech101=[32, 10],
    dtd=[16, 0.01],
    oxford_flowers102=[32, 1],
    oxford_iiit_pet=[16, 10],
    svhn=[32, 100],
    sun397=[16, 1],
    patch_camelyon=[32, 10],
    eurosat=[32, 100],
    resisc45=[32, 10],
    diabetic_retinopathy=[16, 1],
    clevr_count=[32, 10],
    clevr_dist=[16, 10],
    dmlab=[32, 10],
    kitti=[32, 10],
    dsprites_loc=[32, 100],
    dsprites_ori=[32, 1],
    smallnorb_azi=[32, 100],
    smallnorb_ele=[16, 10],
)
