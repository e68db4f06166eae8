# Methods that dense tasks on a Swin leave out, with the reason that their configs' names answer with.
__selection = "it selects by the classes of whole images, which this task does not have"
__width = "its side network is defined for a backbone of one width; E3VA and DTL are those for stages"
__smaller = "it makes the image smaller, so that maps would show things at other places than labels and boxes"
without = dict(
    sct=__selection,
    gps=__selection,
    spt_lora=__selection,
    spt_adapter=__selection,
    dyt="its losses compare class scores of a linear head, which this task does not have",
    lst=__width,
    last=__width,
    hst=__width,
    vqt=__width,
    vit_split=__width,
    vit_adapter=__width,
    evp=__smaller,
    ilm_vp=__smaller,
)
