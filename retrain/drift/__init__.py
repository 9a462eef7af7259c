"""Compares what a model is asked in service with what it was evaluated on: `compare` decides, `page` shows."""
