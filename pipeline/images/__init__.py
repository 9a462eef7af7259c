"""Turns any photo into an upright record image by the pixel policy, the same at build and at predict.

Free of TensorFlow and of Beam. `policy` says what is accepted and why something is refused, `pixels` decodes (plain
JPEGs: `jpeg`), `facts` inspects, `encode` makes the record's image, `hashing` makes the perceptual hash.
"""
