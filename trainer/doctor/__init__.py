"""Says what is installed and whether training can work here.

`checks` finds out what can be known without TensorFlow; `probe` asks TensorFlow itself, in a process of its own, which
`diagnosis` starts and judges: it yields all that is found, in order.
"""
