"""What does a model predict, drawn?"""
