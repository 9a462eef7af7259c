"""The pixel policy: any photo becomes an upright record image, the same at build and at predict.

Free of TensorFlow and of Beam. `policy` says what is accepted and why something is refused, `pixels` decodes, `facts`
inspects, `encode` makes the record's image, `hashing` makes the perceptual hash.
"""
