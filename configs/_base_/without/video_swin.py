# Methods that video tasks on Video Swin leave out, with the reason that their configs' names answer with.
__width = "its side network is defined for a backbone of one width; E3VA and DTL are those for stages"
__time = "it runs attention over time, and that of windows knows places in space"
without = dict(lst=__width, last=__width, hst=__width, vqt=__width, vit_split=__width, vit_adapter=__width, aim=__time)
