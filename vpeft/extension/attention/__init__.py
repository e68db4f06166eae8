"""Where does a model look?"""
