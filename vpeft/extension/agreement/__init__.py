"""Do methods agree?"""
