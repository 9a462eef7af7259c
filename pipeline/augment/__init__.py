"""Augments an image in three steps, whatever the number of operations: one resampling, one colour matrix, one mask.

Flip, shift, zoom, shear, rotation and random resized crop compose with the resize into one affine map from output
to source (`geometry`); brightness, contrast, saturation and hue into one 3×4 matrix, all cutouts into one mask
(`colour`). The parameters of many examples are drawn together (`render.draw`), each from the example's own
counter-based stream (`random_bits`, `places`). `batch` mixes whole images of a batch. `resampling` does the first step
on the accelerator. `own_policy` lets a user's function have the last word on each image.
"""
