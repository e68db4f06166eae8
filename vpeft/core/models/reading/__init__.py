"""How are maps read out of a network that a library has built?"""
