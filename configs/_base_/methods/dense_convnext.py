# As the table of dense tasks; a ConvNeXt has the linears of an MLP alone for LoRA.
_base_ = ["dense.py"]
methods = dict(lora=dict(targets=["fc1", "fc2"]))
