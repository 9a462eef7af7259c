"""Fine-tunes VGG16 on a few thousand scraped photos: the last convolution block and a new head, the rest frozen.

    python -m beam_jobs.build_tfrecords --source=folder --input=PHOTOS --output=DATA --splits=train:0.8,validation:0.2
    python -m trainer.main --data=DATA --recipe=scraped_vgg16 --run=RUN

Its source claims no test accuracy. It trained 9 classes of 400 to 500 images and advises: first find, without
augmentation and dropout, a learning rate that fits the training set, then add them (`--set=phases.0.augment=false
--set=head.dropout=0`).
What differs: the weights of the best epoch in validation are kept. How far images are turned, zoomed and shifted,
dropout 0.5, batch 32 and 30 epochs are not in what we have of the source, so they are ours.
Measured here: not; needs the ImageNet weights of VGG16.
"""

from pipeline.augment.config import AugmentConfig
from trainer.models import HeadConfig
from trainer.recipes.recipe import DataFacts, OptimizerConfig, Phase, Recipe
from trainer.recipes.schedule import Duration


def recipe(facts: DataFacts, backbone: str = "vgg16") -> Recipe:
    del facts  # a published experiment: nothing is derived from the data
    return Recipe(
        name="scraped_vgg16",
        backbone=backbone,
        image_size=256,
        head=HeadConfig(pooling="flatten", hidden=512, dropout=0.5),
        batch_size=32,
        fixed_batch=True,
        augment=AugmentConfig(rotation=20, zoom=0.2, flip=True, shift=0.1),
        optimizer=OptimizerConfig(name="adam"),
        phases=(
            Phase(
                name="top",
                duration=Duration.parse("30ep"),
                schedule="constant",
                lr_max=1e-4,
                # The last four layers: three convolutions and a pooling, which has no variables.
                trainable=(("head/", 1.0), (r"backbone/block5_conv", 1.0), ("backbone/", None)),
            ),
        ),
    )
