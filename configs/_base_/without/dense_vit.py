# Methods that dense tasks on a ViT with several outputs leave out, with the reason that their names answer with.
__selection = "it selects by the classes of whole images, which this task does not have"
__output = "its side network takes the place of one output, and this backbone gives several"
__smaller = "it makes the image smaller, so that maps would show things at other places than labels and boxes"
without = dict(
    sct=__selection,
    gps=__selection,
    spt_lora=__selection,
    spt_adapter=__selection,
    dyt="its losses compare class scores of a linear head, which this task does not have",
    lst=__output,
    last=__output,
    hst=__output,
    vqt=__output,
    vit_split=__output,
    vit_adapter=__output,
    e3va="its highway leaves by the output norms, and this backbone has one for several outputs",
    sidetuning="it blends behind the output norms, and this backbone has one for several outputs",
    evp=__smaller,
    ilm_vp=__smaller,
)
