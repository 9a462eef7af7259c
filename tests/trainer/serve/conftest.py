"""Exports a small model for all servers of these tests, and makes another one of it that has other labels."""

import io
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.format.sums import write_sums
from tests import datasets
from trainer.models import HeadConfig
from trainer.models.classifier import build_classifier
from trainer.serving.export import export_classifier
from trainer.serving.golden import GoldenImage

LABELS = ["ant", "bee", "Käfer"]
SIZE = {"height": 16, "width": 20}


@pytest.fixture(scope="session")
def exports(tmp_path_factory) -> pathlib.Path:
    """Holds the exports `one` and `other`, whose labels are in capitals."""
    classifier = build_classifier(
        backbone="cifar10_cnn", weights="none", num_classes=3, head=HeadConfig(hidden=8), seed=0, **SIZE
    )
    for variable in classifier.head.trainable_variables:
        variable.assign(variable * 5)  # random weights hardly tell images apart
    random = np.random.default_rng(7)
    golden = [
        GoldenImage(
            id=f"{at:016x}" * 4,
            label=LABELS[at],
            encoded=datasets.jpeg(datasets.smooth_image(random, height=40, width=60)),
        )
        for at in range(3)
    ]
    folder = tmp_path_factory.mktemp("served")
    export_classifier(classifier, labels=LABELS, preprocess="unit", directory=folder / "one", golden=golden, **SIZE)
    shutil.copytree(folder / "one", folder / "other")
    (folder / "other" / "labels.txt").write_text("".join(f"{label.upper()}\n" for label in LABELS), encoding="utf-8")
    write_sums(folder / "other")
    return folder


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    """Makes photos of several formats; all but the first two are encoded anew before they are asked about."""
    random = np.random.default_rng(0)
    images = [datasets.smooth_image(random, height=60 + 10 * at, width=80) for at in range(6)]
    made = [datasets.jpeg(image) for image in images[:2]]
    for image, kind in zip(images[2:], ("PNG", "BMP", "WEBP", "TIFF"), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, kind)
        made.append(file.getvalue())
    return made
