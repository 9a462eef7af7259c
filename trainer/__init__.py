"""Training. Importing it sets what TensorFlow's libraries read from the environment, unless the user has set it."""

import os

from trainer.doctor_checks import find_chips

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no notes on the build
if not find_chips().usable:
    # Without a TPU, libtpu would ask a metadata server for minutes (measured: 8) whenever TensorFlow is imported.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
