"""Measures what a step of EfficientNet-Lite0 takes where its lower stages are frozen: `lower` of a backbone.

    python -m benchmarks.freezing

Batches of 32 random images at 224 pixels; loss and gradient, no input and no optimizer. In turn, several rounds.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

from absl import flags

from pipeline.command import run_command

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds, in each of which every way is timed.", lower_bound=1)
_STEPS = 3  # a round
BACKBONE = "efficientnet_lite0"


def steps() -> dict[str, Callable[[], object]]:
    """Makes a function for each way that computes the gradient of what trains, compiled."""
    import tensorflow as tf

    from trainer.models import backbone_info
    from trainer.models.classifier import build_classifier

    classifier = build_classifier(backbone=BACKBONE, weights="none", num_classes=5, height=224, width=224, seed=0)
    images, labels = tf.random.normal([32, 224, 224, 3]), tf.zeros([32], tf.int32)
    every = [*classifier.backbone.trainable_variables, *classifier.head.trainable_variables]

    def of(frozen: str) -> Callable[[], tf.Tensor]:
        trained = [v.value for v in every if not (frozen and re.match(f"backbone/{frozen}", v.path))]

        @tf.function
        def step() -> tf.Tensor:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(trained)
                logits = classifier.head(classifier.backbone(images, training=False), training=True)
                loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            return tf.add_n([tf.reduce_sum(gradient) for gradient in tape.gradient(loss, trained)])

        return step

    lower = backbone_info(BACKBONE).lower
    return {"nothing": of(""), lower: of(lower), "(stem_|block[12345])": of("(stem_|block[12345])")}


def main(arguments: list[str]) -> None:
    """Prints seconds a step, and their ratio to those where nothing is frozen, of every round."""
    del arguments
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    functions = steps()
    for function in functions.values():
        function()  # traces and warms up
    for number in range(_ROUNDS.value):
        seconds = {}
        for name, function in functions.items():
            started = time.monotonic()
            for _ in range(_STEPS):
                function()
            seconds[name] = (time.monotonic() - started) / _STEPS
        of_all = seconds["nothing"]
        print(f"round {number}: " + ", ".join(f"{n} frozen {s:.2f} s ({s / of_all:.2f})" for n, s in seconds.items()))


if __name__ == "__main__":
    run_command(main)
