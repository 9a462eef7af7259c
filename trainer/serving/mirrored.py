"""Asks a run's model about every image twice, as it is and mirrored: test-time augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.dataset import eval_dataset, example_ids
from pipeline.format.manifest import DatasetVersion
from trainer.models import backbone_info
from trainer.models.classifier import Classifier
from trainer.recipes.recipe import Recipe
from trainer.report.predictions import Predictions


def predict_mirrored(
    classifier: Classifier, recipe: Recipe, names: Sequence[str], data: DatasetVersion, split: str
) -> Predictions:
    """Returns a model's answers to a split: the means of the probabilities for both pictures.

    Args:
      classifier: whose logits are at their temperature.
      recipe: that says how it sees images.
      names: of its labels.
      data: the dataset; labels are compared by name.
      split: its name.

    Raises:
      UsageError: no such split.
      DataError: a damaged shard.
    """

    @tf.function
    def answer(images: tf.Tensor) -> tf.Tensor:
        pictures = (images, tf.reverse(images, axis=[2]))
        return sum(
            tf.nn.softmax(classifier.head(classifier.backbone(one, training=False), training=False)) for one in pictures
        ) / len(pictures)

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
    answers, labels = [], []
    for batch in batches:
        real = batch["weight"].numpy() > 0
        answers.append(answer(batch["image"]).numpy()[real])
        labels.append(batch["label"].numpy()[real])
    place = {name: index for index, name in enumerate(names)}
    known = np.array([place.get(name, -1) for name in data.manifest.labels])
    return Predictions(
        ids=example_ids(data, split),
        labels=known[np.concatenate(labels)],
        names=names,
        log_probabilities=np.log(np.maximum(np.concatenate(answers), np.finfo(np.float32).tiny)),
    )
