"""Input pipeline. Beam workers import this file, `records`, `manifest` and `cli`: keep TensorFlow out of them."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notes on its build do not belong in users' output
