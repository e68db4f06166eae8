"""What lies between two models?"""

#: The study's grid.
ALPHAS = tuple(i / 10 for i in range(11))
