# Methods that dense tasks on a ConvNeXt leave out, with the reason that their configs' names answer with.
__selection = "it selects by the classes of whole images, which this task does not have"
__attention = "it changes attention, which a ConvNeXt does not have"
__tokens = "it puts tokens into the stream, and a ConvNeXt works on maps"
__width = "its side network is defined for a backbone of one width; DTL is the one for stages"
without = dict(
    sct=__selection,
    gps=__selection,
    dyt="its losses compare class scores of a linear head, which this task does not have",
    attentiontune=__attention,
    prefix=__attention,
    patt=__attention,
    fact_tt=__attention,
    fact_tk=__attention,
    krona=__attention,
    kadaptation=__attention,
    utuning=__attention,
    bapat=__attention,
    vptshallow=__tokens,
    vptdeep=__tokens,
    vfpt=__tokens,
    e2vpt=__tokens,
    noah=__tokens,
    lst=__width,
    last=__width,
    hst=__width,
    e3va="its highway leaves by the output norms, which this backbone does not have",
)
