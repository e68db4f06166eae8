# Methods that dense tasks on the last map of a ViT leave out, with the reason that their names answer with.
__selection = "it selects by the classes of whole images, which this task does not have"
__smaller = "it makes the image smaller, so that maps would show things at other places than labels and boxes"
without = dict(
    sct=__selection,
    gps=__selection,
    spt_lora=__selection,
    spt_adapter=__selection,
    dyt="its losses compare class scores of a linear head, which this task does not have",
    hst="its read-out is a token, and this task reads a map",
    vqt="its read-out is a token, and this task reads a map",
    evp=__smaller,
    ilm_vp=__smaller,
)
