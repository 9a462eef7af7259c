"""Finds out why a model does not learn: trains it on a sample at many learning rates.

`sweep` trains, `advice` puts the outcome into words and flags, `check` reads what is asked for and shows table, picture
and file.
"""
