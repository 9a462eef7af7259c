"""Input pipeline. Beam workers import this file, `records`, `manifest` and `cli`: keep TensorFlow out of them."""
