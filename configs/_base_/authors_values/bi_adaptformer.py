# Bi-AdaptFormer of rank 32 and 1 bit on VTAB-1k with ViT-B/16: the values of JieShibo/PETL-ViT, binary_adapter/configs.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=["model.backbone.method.scale"],
    cifar=[0.1],
    caltech101=[10],
    dtd=[0.01],
    oxford_flowers102=[1],
    oxford_iiit_pet=[0.01],
    svhn=[10],
    sun397=[0.1],
    patch_camelyon=[1],
    eurosat=[1],
    resisc45=[10],
    diabetic_retinopathy=[1],
    clevr_count=[1],
    clevr_dist=[0.1],
    dmlab=[1],
    kitti=[1],
    dsprites_loc=[1],
    dsprites_ori=[0.1],
    smallnorb_azi=[1],
    smallnorb_ele=[1],
)
