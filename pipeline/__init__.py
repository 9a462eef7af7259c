"""Holds what the builder, the trainer and the gate share, and the input pipeline of the trainer."""
