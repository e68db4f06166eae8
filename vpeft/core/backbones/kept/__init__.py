"""How are the parameters of a base kept, where this is not as they are used?"""
