"""What does a trained run say of new images and clips?"""
