"""Answers without a TPU whether a recipe's training step compiles for one, whether it fits, and how fast it can be.

`asking` finds the answer to a `question` where it is kept (`cache`, or `answers`, which come with the package), else
has `examine` find out and hand on `findings`, which `report` prints. `facts` counts the data, `feeding` measures the
input, `lowering` makes HLO of the steps (`spmd` stands for the slice), `compiling` has it compiled by `worker`, in a
process of its own; `hlo` reads what comes out, `flops` checks it, `roofline` bounds the speed, `anchors` say how near
real runs come to that, `batches` looks for the largest batch.
"""
