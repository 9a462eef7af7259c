"""What trains: TPUs, GPUs, CPUs, several machines, behind one `tf.distribute.Strategy`."""
