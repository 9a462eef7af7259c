"""Reads and writes the bodies of the protocols that are spoken. Pure: bytes in, values out, and back."""
