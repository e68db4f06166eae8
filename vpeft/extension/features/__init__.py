"""Where do features lie?"""
