# Methods that video tasks on VideoMAE's ViT leave out, with the reason that their configs' names answer with.
__token = "it reads out at a class token, and this backbone norms a mean of its own width"
without = dict(
    hst=__token,
    vqt=__token,
    vit_split="it runs copies of blocks on tokens of its own, and this backbone's attention is that of a whole clip",
    vit_adapter="its convolutions see single images, and this backbone is given clips",
    aim="it adds time to a backbone of single frames, and this one's attention sees all of a clip",
)
