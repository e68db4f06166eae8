# Methods that dense tasks on a ConvNeXt leave out, with the reason that their configs' names answer with.
__attention = "its blocks have no attention"
_base_ = ["dense_swin.py"]
without = dict(attentiontune=__attention)
