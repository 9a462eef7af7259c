"""Fits linear heads to features, asks them about images that they have not seen, calibrates them. NumPy only."""
