"""Where do the weights of the nano hosts come from?"""
