"""What do the pictures share?"""
