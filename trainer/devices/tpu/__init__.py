"""Reaches the chips of a TPU slice from one process: `hosts` says what each host does, `server` serves its chips.

`hosts` is free of TensorFlow; `server` imports it where it starts a server.
"""
