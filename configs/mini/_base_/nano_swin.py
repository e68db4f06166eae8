# The embedded tasks of classification on the nano Swin.
_base_ = [
    "../../_base_/models/classification/nano_swin.py",
    "../../_base_/datasets/classification/mini.py",
    "../../_base_/schedules/mini.py",
    "../../_base_/runtimes/default.py",
]
methods_table = "mini"
__width = "its side network is defined for a backbone of one width; E3VA and DTL are those for stages"
__narrow = "its 32 columns are more than the 24 channels of this host's first stage"
without = dict(
    lst=__width,
    last=__width,
    hst=__width,
    vqt=__width,
    vit_split=__width,
    vit_adapter=__width,
    bi_adaptformer=__narrow,
    bi_lora=__narrow,
)
