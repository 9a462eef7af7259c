"""Raw images to sharded TFRecords."""

import os

# Before NumPy is loaded: its linear algebra would start a thread a core in every worker, which then wait for each
# other. The near-duplicate search took four times as long that way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
