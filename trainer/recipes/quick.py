"""Trains fast on CPUs and small images: EfficientNet-Lite0 at 64×64.

    python -m trainer.main --data=DATA --recipe=quick --run=RUN

The head is trained on cached features first, then everything, as in `photos`.
"""

from pipeline.augment.config import AugmentConfig
from trainer.models import HeadConfig
from trainer.recipes.recipe import DataFacts, OptimizerConfig, Phase, Recipe
from trainer.recipes.schedule import Duration


def recipe(facts: DataFacts, backbone: str = "efficientnet_lite0") -> Recipe:
    return Recipe(
        name="quick",
        backbone=backbone,
        image_size=64,
        head=HeadConfig(pooling="avg", dropout=0.2),
        batch_size=32,
        augment=AugmentConfig(shift=0.08, zoom=0.1, rotation=10.0),  # no flip: digits and letters would become others
        optimizer=OptimizerConfig(name="adam"),
        # Small data: a validation split of some 180 images ranks epochs by chance and prefers one before the cool-down.
        selection="last",
        phases=(
            Phase(
                name="head",
                duration=Duration.parse("20ep"),
                lr_max=0.003,
                cached_features=True,
                trainable=(("head/", 1.0), ("backbone/", None)),
                l2=1 / facts.num_train,
            ),
            Phase(
                name="all",
                duration=Duration.parse("8ep"),
                lr_min=1e-5,
                lr_max=5e-4,
                warmup=Duration.parse("10%"),
                flat=Duration.parse("20%"),
            ),
        ),
    )
