"""Turns any photo into an upright record image by the pixel policy, the same at build and at predict.

Free of TensorFlow and of Beam. `policy` says what is accepted and why something is refused, `pixels` opens and decodes,
`look` inspects, `encode` makes the record's image, `seeing` what a model sees of it, as `model_pixels` says, which
every export holds a copy of; `hashing` makes the perceptual hash. `guarded` has all that done in processes that
`zygote` forks. `magic` tells formats apart; `jpeg`, `png`, `gif`, `tiff`, `tags`, `pnm` and `boxes` know one each: what
Pillow takes for ever over, reads wrongly or passes over is found there first.
"""
