"""Puts what trains, TPUs, GPUs, CPUs or several machines, behind one `tf.distribute.Strategy`.

`strategy` chooses the devices, `cluster` joins several processes, `memory` sets the allocator where a CPU trains. Free
of TensorFlow: `chips` finds the TPU chips of this machine, `tpu` reaches those of several, and `tpus` knows
every slice with its public figures.
"""
