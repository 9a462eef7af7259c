"""Asks a run's model about the images of a dataset, also of another one than the run's."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.command import DataError
from pipeline.dataset import eval_dataset, example_ids
from pipeline.format.manifest import DatasetVersion
from pipeline.predictions import Predictions
from pipeline.progress import ImageCount
from trainer.models import backbone_info
from trainer.models.classifier import Classifier
from trainer.recipes.recipe import Recipe


def predict_split(
    classifier: Classifier,
    recipe: Recipe,
    names: Sequence[str],
    data: DatasetVersion,
    split: str,
    *,
    temperature: float = 1.0,
    mirrored: bool = False,
) -> Predictions:
    """Returns a model's answers to a split.

    Args:
      classifier: whose logits are at their temperature.
      recipe: that says how it sees images.
      names: of its labels.
      data: the dataset; labels are compared by name.
      split: its name.
      temperature: by which the classifier's logits were divided.
      mirrored: asks about each image and its mirror image, and takes the means of their probabilities (test-time
        augmentation); these are of no temperature.

    Raises:
      DataError: a damaged shard; or none of the split's labels is one of the model's.
      UsageError: no such split.
    """

    @tf.function
    def answer(images: tf.Tensor) -> tf.Tensor:
        pictures = (images, tf.reverse(images, axis=[2])) if mirrored else (images,)
        found = [
            tf.nn.log_softmax(classifier.head(classifier.backbone(one, training=False), training=False))
            for one in pictures
        ]
        return tf.reduce_logsumexp(tf.stack(found), axis=0) - math.log(len(found))

    place = {name: index for index, name in enumerate(names)}
    known = np.array([place.get(name, -1) for name in data.manifest.labels])
    if (known < 0).all():
        raise DataError(
            f"{data.path}: none of its labels ({_first(data.manifest.labels)}) is one of the model's ({_first(names)})"
        )

    batches = eval_dataset(
        data,
        split,
        height=recipe.image_size,
        width=recipe.image_size,
        preprocess=backbone_info(recipe.backbone).preprocess,
        view=recipe.view,
        global_batch_size=recipe.batch_size,
        cache="none",
    )
    answers, labels, done = [], [], 0
    with contextlib.closing(ImageCount(f"asking about {split}", sys.stderr)) as shown:
        for batch in batches:
            real = batch["weight"].numpy() > 0
            answers.append(answer(batch["image"]).numpy()[real])
            labels.append(batch["label"].numpy()[real])
            done += len(labels[-1])
            shown.show(done, data.manifest.num_examples(split))
    return Predictions(
        ids=example_ids(data, split),
        labels=known[np.concatenate(labels)],
        names=names,
        log_probabilities=np.concatenate(answers),
        temperature=1.0 if mirrored else temperature,
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *(["…"] if len(names) > 3 else [])])
