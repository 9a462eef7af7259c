"""Trains on one's own photos: the default, with nothing to tune.

    python -m trainer.main --data=DATA --recipe=photos --run=RUN

Linear probing, then fine-tuning (arXiv 2202.10054): the head is solved for on cached features of the frozen ImageNet
backbone, its l2 found by cross-validation, then the backbone's upper stages are fine-tuned gently from there. The lower
ones, whose maps are an eighth of the image's side and larger, stay as they are: that saves half of a step's time and
was no worse, while freezing all but the last two stages was worse on images unlike ImageNet's (`benchmarks/RESULTS.md`,
"Probe").

Of an image the largest square in its middle is seen. Stretched to a square instead, images lose their proportions, and
probes were worse: by 0.02 on flowers, 0.05 on pets, 0.3 and more where classes differ by proportions
(`benchmarks.proportions`). Where what matters reaches to the ends of tall or wide images, --set=resize=pad shows all.
"""

from pipeline.augment.config import AugmentConfig
from trainer.models import HeadConfig, backbone_info
from trainer.recipes.recipe import DataFacts, OptimizerConfig, Phase, Recipe
from trainer.recipes.schedule import Duration


def recipe(facts: DataFacts, backbone: str = "efficientnet_lite0") -> Recipe:
    # The smallest data sets need more passes, for the sake of steps: about 3,500 images, within 6 to 15 epochs.
    epochs = min(15, max(6, round(3_500 / facts.num_train)))
    info = backbone_info(backbone)
    frozen = ((f"backbone/{info.lower}", None),) if info.lower else ()
    return Recipe(
        name="photos",
        backbone=backbone,
        image_size=info.image_size,
        resize="crop",
        head=HeadConfig(pooling="avg", dropout=0.2),
        batch_size=32,
        augment=AugmentConfig(flip=True, random_resized_crop=0.35, brightness=0.1, contrast=0.1, saturation=0.1),
        optimizer=OptimizerConfig(name="adam"),
        label_smoothing=0.1,
        ema_decay=0.98,
        phases=(
            Phase(
                name="head",
                duration=Duration.parse("1st"),
                lr_max=0.0,
                cached_features=True,
                method="regression",
                trainable=(("head/", 1.0), ("backbone/", None)),
            ),
            Phase(
                name="upper" if frozen else "all",
                duration=Duration.parse(f"{epochs}ep"),
                trainable=(*frozen, (".*", 1.0)),
                lr_min=1e-6,
                lr_max=4e-4,
                warmup=Duration.parse("10%"),
            ),
        ),
    )
