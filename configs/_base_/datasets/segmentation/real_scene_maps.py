# Scenes of 224 pixels in front of photographs, with label maps (docs/segmentation.md).
_base_ = ["scene_maps.py"]
image_size = 224
data_root = "data/real/scenes_maps"
train_dataloader = dict(dataset=dict(type="vpeft.RealSceneMaps", data_root=data_root))
val_dataloader = dict(batch_size=10, dataset=dict(type="vpeft.RealSceneMaps", data_root=data_root))
test_dataloader = dict(batch_size=10, dataset=dict(type="vpeft.RealSceneMaps", data_root=data_root))
