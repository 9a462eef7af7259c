"""Fine-tunes VGG16 on four species of big cats, 150 training images each, with layers up to the 15th frozen.

    python -m trainer.main --data=DATA --recipe=big_cats_vgg16 --run=RUN

Its source claims a test accuracy of 91.9 % (150/50/40 images a class). What differs: the weights of the best epoch in
validation are kept, and images are split by what they show, so that look-alikes are in one split.
Measured here: not; needs the ImageNet weights of VGG16 and those photos.
"""

from pipeline.augment.config import AugmentConfig
from trainer.models import HeadConfig
from trainer.recipes.recipe import DataFacts, OptimizerConfig, Phase, Recipe
from trainer.recipes.schedule import Duration


def recipe(facts: DataFacts, backbone: str = "vgg16") -> Recipe:
    del facts  # a published experiment: nothing is derived from the data
    return Recipe(
        name="big_cats_vgg16",
        backbone=backbone,
        image_size=100,
        head=HeadConfig(pooling="avg", hidden=1024),
        batch_size=32,
        fixed_batch=True,
        augment=AugmentConfig(shear=0.2, zoom=0.2, flip=True),
        optimizer=OptimizerConfig(name="sgd", momentum=0.9),
        phases=(
            Phase(
                name="top",
                duration=Duration.parse("2500st"),  # the source counts 50 epochs of 50 steps
                schedule="constant",
                lr_max=1e-4,
                # Keras counts the input as layer 0: layers 15 to 18 are block5's convolutions and its pooling.
                trainable=(("head/", 1.0), (r"backbone/block5_conv", 1.0), ("backbone/", None)),
            ),
        ),
    )
