"""Trains a recipe's model, phase by phase, and saves enough for a killed run to end in the same weights.

`plan` says what is to be done and how far it has come; `model` builds the model, `optimizer` what updates it, `step`
the compiled training step; `feed` brings batches to the replicas; `loop` runs phases and epochs. `evaluation` measures,
`checkpoint` saves, `metrics` logs, `guards` stops a run that is lost.
"""
