"""Finds images that are copies of each other, equal or alike, and decides which of them stay."""
