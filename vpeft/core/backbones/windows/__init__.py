"""Attention in windows of a map: which windows, and what goes with them?"""
