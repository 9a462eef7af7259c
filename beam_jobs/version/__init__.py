"""Writes what a version holds besides its shards, and the version itself."""
