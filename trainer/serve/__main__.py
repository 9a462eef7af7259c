r"""Serves an exported model over HTTP, without TensorFlow (extra [serve]).

    python -m trainer.serve RUN/export
    python -m trainer.serve MODELS/champion --watch --port=8501 --host=0.0.0.0
    curl -F image=@photo.jpg http://127.0.0.1:8501/predict

--model takes an export, by its fastest form (LiteRT), or one form of it: model_int8.tflite, a SavedModel … Clients of
TensorFlow Serving's REST protocol (/v1/models/…) and of the Open Inference Protocol (/v2/models/…, KServe, Triton) can
ask it; / lists all there is. Every image goes through the pixel policy of the dataset builder, in a process that ends
where an image would take too much. SIGTERM lets what is under way be answered and ends with exit code 0.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import TYPE_CHECKING

from absl import flags

from pipeline.command import UsageError, run_command
from pipeline.format import storage

if TYPE_CHECKING:
    from trainer.serve.answering import Answering

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "What to serve: an export, one form of it, or MODELS/champion.")
flags.DEFINE_string("name", "model", "The model's name in paths: /v1/models/NAME:predict.")
flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 for other machines, too.")
flags.DEFINE_integer("port", 8501, "Port to listen on; 0 takes one that is free and prints it.", 0, 65_535)
flags.DEFINE_bool("watch", False, "Follow --model: when it comes to mean another model, serve that.")
flags.DEFINE_string(
    "log", "", "Folder for a log of answers, which retrain.drift compares with what it was evaluated on."
)
flags.DEFINE_float("log_share", 0.1, "Share of the answers that is logged.", 0.0, 1.0)
flags.DEFINE_integer("max_body_mib", 64, "Largest body of a request.", 1, 1024)
flags.DEFINE_integer("max_waiting", 128, "Images that may wait for their answer; beyond, clients get 503.", 1, 100_000)
flags.DEFINE_integer("max_batch", 8, "Images that the model is asked about at once, if so many wait.", 1, 1024)
flags.DEFINE_float("client_seconds", 30.0, "Time that a client has to send its request.", 0.1, 3600.0)
flags.DEFINE_float(
    "linger_seconds", 1.0, "After SIGTERM, time in which /readyz says no and requests are still answered.", 0.0, 300.0
)
_PACKAGES = ("starlette", "uvicorn", "python_multipart", "prometheus_client")


def main(arguments: list[str]) -> None:
    del arguments
    if not FLAGS.model:
        raise UsageError("give what to serve: python -m trainer.serve RUN/export, or MODELS/champion")
    if not re.fullmatch(r"[\w.-]+", FLAGS.name):
        raise UsageError(f"--name={FLAGS.name}: must be letters, digits, '.', '-' and '_', since it stands in paths")
    if FLAGS.watch and storage.is_remote(FLAGS.model):
        raise UsageError(f"--watch: {FLAGS.model} is in a store, which has no links; watch a folder, or restart")
    if missing := [name for name in _PACKAGES if not importlib.util.find_spec(name)]:
        raise UsageError(f"{missing[0]} is not installed; pip install 'tpu-retraining[serve]'")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # memory for threads that would have nothing to do

    from trainer.serve.answering import Answering

    answering = Answering()  # its processes start while this one imports what follows
    try:
        _run(answering)
    finally:
        answering.close()


def _run(answering: Answering) -> None:
    from trainer.serve.limits import Limits
    from trainer.serve.run import Settings, run
    from trainer.serve.server import bind

    limits = Limits(
        body=FLAGS.max_body_mib << 20,
        waiting=FLAGS.max_waiting,
        batch=FLAGS.max_batch,
        seconds=FLAGS.client_seconds,
        linger=FLAGS.linger_seconds,
    )
    settings = Settings(
        model=FLAGS.model, name=FLAGS.name, watch=FLAGS.watch, log=FLAGS.log, log_share=FLAGS.log_share, limits=limits
    )
    run(settings, bind(FLAGS.host, FLAGS.port), answering)


if __name__ == "__main__":
    run_command(main, argument="model", is_native=True)
