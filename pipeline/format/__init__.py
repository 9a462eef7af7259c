"""Reads and writes what lies on disk between the builder, the trainer and the gate. Free of TensorFlow and of Beam."""
