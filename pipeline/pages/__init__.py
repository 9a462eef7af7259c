"""Holds what all pages have in common: their style, their pictures, and how a judgement is put. Free of TensorFlow."""
