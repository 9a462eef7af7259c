"""Uses the API as a notebook does: several calls in one process, one of them interrupted. Prints what it finds as JSON.

python -m tests.trainer.api.session DATA RUN SETTINGS.json
"""

import gc
import json
import logging as std_logging
import os
import pathlib
import signal
import sys
import threading
import time

from absl import logging

from pipeline.command import UsageError
from pipeline.native_output import native_output_hidden
from trainer.api import train

found = {"imported": sorted({"tensorflow", "keras", "apache_beam", "matplotlib"} & set(sys.modules))}


def state():
    log = std_logging.getLogger("absl")
    signals = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return [keras.config.dtype_policy().name, logging.get_verbosity(), list(log.handlers), log.propagate, *signals]


def refused(**changed):
    try:
        train(data, **{"run": folder, "recipe": "quick", "settings": settings, **changed})
    except UsageError as error:
        return str(error)


def interrupt_when(file):
    while not (file.exists() and file.read_text().count("\n") > 2):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


data, folder, settings = sys.argv[1], sys.argv[2], json.loads(pathlib.Path(sys.argv[3]).read_text())

found["typo"] = refused(recipe="quik")
found["imported"] += sorted({"tensorflow", "keras"} & set(sys.modules))

with native_output_hidden():  # what TensorFlow says here is not of the API's making
    import keras

keras.config.set_dtype_policy("mixed_float16")  # as somebody may have in a notebook
keras.layers.Dense(1)  # so that the next one is another's "dense_1"
before = state()
found["restored"] = []

watch = threading.Thread(target=interrupt_when, args=(pathlib.Path(folder, "metrics.jsonl"),), daemon=True)
watch.start()
try:
    train(data, folder, recipe="quick", settings=settings)
    found["interrupted"] = None
except KeyboardInterrupt as interrupt:
    found["interrupted"] = str(interrupt)
found["restored"].append(state() == before)
found["rows"] = pathlib.Path(folder, "metrics.jsonl").read_text().count("\n")

run = train(data, folder, recipe="quick", settings=settings)
found["accuracy"], found["path"], found["html"] = run.metrics["test"]["accuracy"], run.path, run._repr_html_()
found["restored"].append(state() == before)
gc.collect()
found["alive"] = [type(o).__name__ for o in gc.get_objects() if type(o).__name__ in ("Classifier", "Trainer", "Plan")]
found["another"] = refused(settings={**settings, "phases.1.lr_max": 0.002})
found["again"] = train(data, folder, recipe="quick", settings=settings) == run
print("\n" + json.dumps(found))
