"""Where are jobs run?"""
