"""Finds out why a model does not learn."""
