"""Where does a model look?"""

#: Kinds of maps, and what their numbers are.
KINDS = {
    "class": "attention of the class token (1: all of it)",
    "token": "attention of one token (1: all of it)",
    "received": "attention that a token receives (1: an even share)",
    "rollout": "attention rollout (1: all of it)",
    "gradcam": "Grad-CAM, relative to each map's maximum",
}
