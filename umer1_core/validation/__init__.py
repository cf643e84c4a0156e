"""Validation: is this data set what it claims to be, and may a model be trained on it?"""
