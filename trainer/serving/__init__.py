"""Hands a trained classifier to others: writes exports, and asks exports about images.

`export` writes SavedModel, Keras and LiteRT; `signature` loads the SavedModel's serving signature, which `predict` asks
about image files and `score` about a split of a dataset.
"""
