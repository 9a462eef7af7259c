"""Picks a backbone for a dataset: what `--backbone=auto` means.

`choice` knows the candidates and picks one of them, `probe` measures one.
"""
