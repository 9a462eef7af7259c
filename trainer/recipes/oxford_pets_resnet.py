"""Fine-tunes ResNet-34 on the 37 breeds of Oxford-IIIT Pet.

    python -m beam_jobs.build_tfrecords --source=oxford_pets --input=PETS --output=DATA --validation_fraction=0.5
    python -m trainer.main --data=DATA --recipe=oxford_pets_resnet --run=RUN --weights=resnet34-b627a593.pth

The weights are torchvision's, from https://download.pytorch.org/models/resnet34-b627a593.pth.
Its source claims a test accuracy of 92.1 % (50/50/about 100 images a class), with batch norm in train mode, crops from
8 % of the area and evaluation by resize to 256 and centre crop of 224, as here. Batch 32, dropout 0.5, 30 epochs at
most and patience 5 are not in what we have of it, so they are ours. What differs: photos are made smaller by powers of
two while they are decoded and then bilinearly, where torchvision resizes with antialiasing; a crop larger than its
image is cut at the border, where torchvision draws another; an image and its look-alikes are in one split; moving
variances take in the batch's biased variance (`trainer.models.resnet`).
`oxford_pets_resnet50` is the same with the options that we would choose.
Measured here: not; needs those weights and the whole data set.
"""

from pipeline.augment.config import AugmentConfig
from trainer.models import HeadConfig, backbone_info
from trainer.recipes.recipe import DataFacts, OptimizerConfig, Phase, Recipe
from trainer.recipes.schedule import Duration


def recipe(facts: DataFacts, backbone: str = "resnet34") -> Recipe:
    del facts  # a published experiment: nothing is derived from the data
    return Recipe(
        name="oxford_pets_resnet",
        backbone=backbone,
        image_size=backbone_info(backbone).image_size,
        eval_centre=224 / 256,
        head=HeadConfig(pooling="avg", dropout=0.5),
        batch_size=32,
        fixed_batch=True,
        augment=AugmentConfig(random_resized_crop=0.08, flip=True),
        optimizer=OptimizerConfig(name="sgd", momentum=0.9),
        phases=(
            Phase(
                name="all",
                duration=Duration.parse("30ep"),
                schedule="step_decay",
                lr_max=0.001,
                decay_factor=0.9,
                decay_every=Duration.parse("3ep"),
                batch_norm="train",
                patience=5,
            ),
        ),
    )
