"""Answers without a TPU whether a recipe's training step compiles for one, whether it fits, and how fast it can be.

`examine` goes from a recipe to `findings`, which `report` prints and `cache` keeps. `facts` counts the data, `feeding`
measures the input, `lowering` makes HLO of the steps, `compiling` has it compiled by `worker`, in a process of its own;
`hlo` reads what comes out, `flops` checks it, `roofline` bounds the speed, `batches` looks for the largest batch.
"""
