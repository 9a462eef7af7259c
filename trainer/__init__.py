"""Training. Importing it quietens TensorFlow's C++ log (notes on the build), unless the user has set a level."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
