"""Shows code of one's own in all three places, without a change to the package.

    python -m trainer.main --data=DATA --run=RUN --recipe=examples/own_code.py

trains the recipe below, whose backbone and augmentation are functions of this file. Either may as well be given to a
recipe of the package, by flags:

    python -m trainer.main --data=DATA --run=RUN --recipe=photos \
        --backbone=examples/own_code.py:small_cnn --set=augment.policy=examples/own_code.py:lights_out

A run keeps a copy of the file and of those beside it that it imports, in RUN/own_code/, and goes on only with the files
that it began with. Copy this one, and write FILE.py:function, or MODULE:function for a module that Python finds (in the
current folder first).
"""

import keras
import tensorflow as tf

from pipeline.augment.config import AugmentConfig
from trainer.models import HeadConfig
from trainer.recipes.recipe import DataFacts, OptimizerConfig, Phase, Recipe
from trainer.recipes.schedule import Duration


def recipe(facts: DataFacts, backbone: str = f"{__file__}:small_cnn") -> Recipe:
    """Says what to train; `facts` are the counts of the dataset, `backbone` is what --backbone says."""
    return Recipe(
        name="small",
        backbone=backbone,
        weights="none",
        image_size=64,
        head=HeadConfig(pooling="avg", dropout=0.2),
        batch_size=min(32, facts.num_train),
        augment=AugmentConfig(flip=True, shift=0.1, policy=f"{__file__}:lights_out"),
        optimizer=OptimizerConfig(name="adam"),
        phases=(
            Phase(
                name="all",
                duration=Duration.parse("10ep"),
                lr_max=0.002,
                warmup=Duration.parse("10%"),
                batch_norm="train",
            ),
        ),
    )


def small_cnn(images, *, image_size=64, preprocess="unit"):
    """Builds a backbone from images [B, H, W, 3] to a feature map [B, h, w, channels].

    The defaults say what it wants: the size that recipes take from their backbone, and pixels in 0..1 (`unit`; others
    are in pipeline/modes.py). They are read, not called with.
    """
    x = images
    for filters in (16, 32, 64):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    return x


def lights_out(image, seed):
    """Darkens every third image: float32 [H, W, 3], 0..255, to the same. All chance comes from `seed`, int32 [2]."""
    if tf.random.stateless_uniform([], seed) < 1 / 3:
        image *= tf.random.stateless_uniform([], seed + 1, minval=0.3, maxval=0.8)
    return image
