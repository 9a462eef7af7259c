"""Builds sharded TFRecords from raw images."""
