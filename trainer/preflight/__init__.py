"""Does a recipe's training step compile for a TPU, does it fit, how fast can it be: answered without a TPU."""
