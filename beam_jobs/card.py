"""What a published version says about itself: the files for TFDS and the dataset card."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.manifest import Manifest
from pipeline.records import HEIGHT, ID, IMAGE, LABEL, SOURCE, WIDTH

_MANY_CLASSES = 50


def write_tfds_metadata(directory: str, manifest: Manifest) -> None:
    """Writes features.json, dataset_info.json and the label names, for `tfds.builder_from_directory`.

    The shards must be there. TensorFlow is not imported: nothing here needs it, and it would take 9 seconds.
    """
    import tensorflow_datasets as tfds

    features = {
        # Greyscale records decode to three equal channels.
        IMAGE: tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        LABEL: tfds.features.ClassLabel(names=list(manifest.labels)),
        ID: tfds.features.Text(),
        SOURCE: tfds.features.Text(),
        HEIGHT: np.int64,
        WIDTH: np.int64,
    }
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=tfds.features.FeaturesDict(features),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard.examples for shard in shards],
                num_bytes=sum(shard.bytes for shard in shards),
                filename_template=None,
            )
            for split, shards in manifest.splits.items()
        ],
        version=manifest.version,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        check_data=False,
    )


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows])


def dataset_card(manifest: Manifest, examples: Mapping[str, Mapping[str, int]], rejects: Mapping[str, int]) -> str:
    """README.md of a version.

    Args:
      manifest: of the version.
      examples: split → label → number of examples.
      rejects: reject code → number of images.
    """
    splits = list(manifest.splits)
    sizes = [
        (
            split,
            manifest.num_examples(split),
            len(shards),
            f"{sum(shard.bytes for shard in shards) / 1e6:.1f} MB",
        )
        for split, shards in manifest.splits.items()
    ]
    classes: list[tuple[object, ...]] = [
        (label, *(examples.get(split, {}).get(label, 0) for split in splits))
        for label in manifest.labels[:_MANY_CLASSES]
    ]
    if len(manifest.labels) > _MANY_CLASSES:
        classes.append((f"… and {len(manifest.labels) - _MANY_CLASSES} more (statistics.json)", *("" for _ in splits)))
    settings: list[tuple[object, ...]] = [(f"`{key}`", f"`{value}`") for key, value in sorted(manifest.build.items())]
    parts = [
        f"# {manifest.name} {manifest.version}",
        f"{sum(size[1] for size in sizes)} images of {manifest.num_classes} classes, as TFRecords of `tf.Example`.",
        "```python\nimport tensorflow_datasets as tfds\n\nbuilder = tfds.builder_from_directory(THIS_DIRECTORY)\n```",
        "## Splits",
        _table(("split", "images", "shards", "size"), list(sizes)),
        "Copies of an image never stand in two splits.",
        "## Classes",
        _table(("class", *splits), classes),
        "## Left out",
        _table(("reason", "images"), sorted(rejects.items())) if rejects else "Nothing.",
        "Each one, with its reason, in `rejects.jsonl`; groups of copies in `duplicates.jsonl`.",
        "## Record",
        _table(
            ("feature", "content"),
            [
                (f"`{IMAGE}`", "JPEG, RGB or greyscale, upright"),
                (f"`{LABEL}`", "int64, index into the classes in the order above"),
                (f"`{ID}`", "sha256 (hex) of the source file's bytes"),
                (f"`{SOURCE}`", "where the image came from"),
                (f"`{HEIGHT}`, `{WIDTH}`", "pixels"),
            ],
        ),
        "## Made by",
        _table(("setting", "value"), settings),
        f"Builder version {manifest.code_version}; source fingerprint `{manifest.source_fingerprint}`.",
    ]
    return "\n\n".join(parts) + "\n"
