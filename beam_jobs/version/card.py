"""Composes what a published version says about itself: the files for TFDS and the dataset card."""

from __future__ import annotations

import json
from collections.abc import Mapping

from beam_jobs.elements import Plan
from beam_jobs.labels import BY_NUMBER, BY_SOURCE, BY_TEXT
from beam_jobs.summary import left_out_lines
from pipeline.format.front_matter import front_matter
from pipeline.format.manifest import Manifest
from pipeline.format.records import HEIGHT, ID, IMAGE, LABEL, SOURCE, WIDTH

_MANY_CLASSES = 50
# Of the hub, by the number of images that each begins with.
_SIZES = {1: "n<1K", 10**3: "1K<n<10K", 10**4: "10K<n<100K", 10**5: "100K<n<1M", 10**6: "1M<n<10M", 10**7: "10M<n<100M"}
_ORDERS = {
    BY_SOURCE: "which is the source's own",
    BY_NUMBER: "which is that of the numbers that their names begin with",
    BY_TEXT: "which is that of their names",
}


def tfds_metadata(manifest: Manifest) -> dict[str, str]:
    """Composes the files that `tfds.builder_from_directory` reads, as TFDS 4.9 writes them: file name → text.

    TFDS itself could write them, but importing it takes as long as inspecting 700 photos, and 60 MB.
    """
    package = "tensorflow_datasets.core.features"
    number = {
        "pythonClassName": f"{package}.tensor_feature.Tensor",
        "tensor": {"dtype": "int64", "encoding": "none", "shape": {}},
    }
    text = {"pythonClassName": f"{package}.text_feature.Text", "text": {}}
    # Greyscale records decode to three equal channels.
    pixels = {
        "dtype": "uint8",
        "encodingFormat": "png" if manifest.has_png else "jpeg",
        "shape": {"dimensions": ["-1", "-1", "3"]},
    }
    features = {
        IMAGE: {"pythonClassName": f"{package}.image_feature.Image", "image": pixels},
        LABEL: {
            "pythonClassName": f"{package}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(manifest.num_classes)},
        },
        ID: text,
        SOURCE: text,
        HEIGHT: number,
        WIDTH: number,
    }
    structure = {
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    info = {
        "fileFormat": "tfrecord",
        "name": manifest.name,
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(sum(shard.bytes for shard in shards)),
                "shardLengths": [str(shard.examples) for shard in shards],
            }
            for split, shards in manifest.splits.items()
        ],
        "version": manifest.version,
    }
    return {
        "features.json": json.dumps(structure, indent=4, sort_keys=True),
        "dataset_info.json": json.dumps(info, indent=2, sort_keys=True),
        f"{LABEL}.labels.txt": "".join(f"{label}\n" for label in manifest.labels),
    }


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows])


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _privacy(with_position: int) -> list[str]:
    if not with_position:
        return []
    return [
        "## Privacy",
        f"{with_position} images hold in their EXIF or XMP where they were taken (GPS), as their source files do. "
        "A build with `--strip_metadata` takes that out.",
    ]


def _header(manifest: Manifest) -> str:
    """Returns what the hub reads of the card."""
    total = sum(manifest.num_examples(split) for split in manifest.splits)
    return front_matter(
        {
            "pretty_name": manifest.name,
            "task_categories": ["image-classification"],
            "size_categories": [size for least, size in _SIZES.items() if total >= least][-1:],
            "tags": ["tfrecord", "tensorflow-datasets"],
        }
    )


def dataset_card(
    manifest: Manifest, examples: Mapping[str, Mapping[str, int]], plan: Plan, *, with_position: int = 0
) -> str:
    """Composes the README.md of a version.

    Args:
      manifest: of the version.
      examples: split → label → number of examples.
      plan: says what is left out, and what a person should know.
      with_position: number of records whose image says where it was taken.
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
        _header(manifest).rstrip("\n"),
        f"# {manifest.name} {manifest.version}",
        f"{sum(size[1] for size in sizes)} images of {manifest.num_classes} classes, as TFRecords of `tf.Example`.",
        "```python\nimport tensorflow_datasets as tfds\n\nbuilder = tfds.builder_from_directory(THIS_DIRECTORY)\n```",
        "## Splits",
        _table(("split", "images", "shards", "size"), list(sizes)),
        "Copies of an image never stand in two splits. Look-alikes under several labels in numbers beyond chance "
        "(a fixed camera; `scene` in `duplicates.jsonl`) are no copies.",
        *([_list(list(plan.notes))] if plan.notes else []),
        "## Classes",
        _table(("class", *splits), classes),
        f"In the order of their numbers, {_ORDERS[manifest.label_order]}.",
        "## Left out",
        _table(("reason", "images"), sorted(plan.rejects.items())) if plan.rejects else "No image.",
        "Each one, with its reason, in `rejects.jsonl`; groups of copies in `duplicates.jsonl`.",
        *([f"Not looked into:\n\n{_list(left_out_lines(plan.left_out))}"] if plan.left_out else []),
        "## Record",
        _table(
            ("feature", "content"),
            [
                (f"`{IMAGE}`", f"{'PNG or JPEG' if manifest.has_png else 'JPEG'}, RGB or greyscale, upright"),
                (f"`{LABEL}`", "int64, index into the classes in the order above"),
                (f"`{ID}`", "sha256 (hex) of the source file's bytes"),
                (f"`{SOURCE}`", "where the image came from"),
                (f"`{HEIGHT}`, `{WIDTH}`", "pixels"),
            ],
        ),
        *_privacy(with_position),
        "## Made by",
        _table(("setting", "value"), settings),
        f"Builder version {manifest.code_version}; source fingerprint `{manifest.source_fingerprint}`.",
    ]
    return "\n\n".join(parts) + "\n"
