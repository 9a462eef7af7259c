"""Holds answers to the common questions: each recipe as it is, on one host of each generation of TPUs, as JSON.

Its files are those of `trainer.preflight.cache`; `python -m trainer.preflight.answers` makes them.
"""
