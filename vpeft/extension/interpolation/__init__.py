"""What lies between two models?"""
