"""Training. Importing it keeps libtpu from waiting for a TPU that is not there, unless the user says otherwise."""

import os

from trainer.devices.chips import find_chips

if not find_chips().usable:
    # libtpu would ask a metadata server for minutes (measured: 8) whenever TensorFlow is imported.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
