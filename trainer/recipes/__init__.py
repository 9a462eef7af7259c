"""Holds the recipes: one a file, whose docstring has command and results, with a function `recipe(facts, backbone)`.

Six files are no recipes: `recipe` says what a recipe consists of, `schedule` computes durations and learning rates,
`load` finds a recipe by its name and applies a request to it, `own` runs those that users have written, `overrides`
turns settings into JSON and back and changes single ones, `fitting` fits a recipe to a TPU.
"""
