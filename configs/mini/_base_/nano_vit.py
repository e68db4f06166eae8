# The embedded tasks of classification on the nano ViT.
_base_ = [
    "../../_base_/models/classification/nano_vit.py",
    "../../_base_/datasets/classification/mini.py",
    "../../_base_/schedules/mini.py",
    "../../_base_/runtimes/default.py",
]
methods_table = "mini"
without = dict(vit_split="its head is a map, and this host's class token, which alone is read, does not see it")
