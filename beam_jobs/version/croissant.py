"""Describes a version in Croissant (https://docs.mlcommons.org/croissant/docs/croissant-spec.html, 1.0).

Dataset searches and mlcroissant read it: the tables of images come back as records, the shards are named.
"""

from __future__ import annotations

import json
from typing import Any

from beam_jobs.version.table import tables_of
from pipeline.format.manifest import Manifest

CROISSANT_FILE = "croissant.json"
_SPECIFICATION = "http://mlcommons.org/croissant/1.0"
# The official context, whole: readers warn of any other.
_OF_CROISSANT = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
    "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _OF_CROISSANT},
}
# Column of the tables → its type, and what it holds.
_COLUMNS = {
    "uri": ("sc:Text", "where the image came from, as in the record"),
    "label": ("sc:Text", "its class"),
    "split": ("sc:Text", "its split"),
    "sha256": ("sc:Text", "of its source file, 32 bytes"),
    "height": ("sc:Integer", "pixels, upright"),
    "width": ("sc:Integer", "pixels, upright"),
    "brightness": ("sc:Float", "mean, 0 to 1"),
    "sharpness": ("sc:Float", "the lower, the more blurred"),
}
_REFERENCES = {"label": "labels/name", "split": "splits/name"}


def croissant(manifest: Manifest) -> str:
    """Returns the text of a version's croissant.json."""
    splits = list(manifest.splits)
    images = sum(map(manifest.num_examples, splits))
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _SPECIFICATION,
        "name": manifest.name,
        "version": manifest.version,
        "description": f"{images} images of {manifest.num_classes} classes, as TFRecords of tf.Example.",
        "distribution": [
            _files("shards", "application/x-tfrecord", [f"{manifest.name}-{split}.tfrecord-*" for split in splits]),
            _files("tables", "application/x-parquet", [f"{tables_of(split)}*" for split in splits]),
        ],
        "recordSet": [_labels(manifest), _splits(manifest), _images()],
    }
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def _files(name: str, kind: str, patterns: list[str]) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": kind, "includes": patterns}


def _field(place: str, name: str, kind: str, about: str, **more: object) -> dict[str, Any]:
    described = {"@type": "cr:Field", "@id": f"{place}/{name}", "name": name, "description": about, "dataType": kind}
    return described | more


def _labels(manifest: Manifest) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "labels",
        "name": "labels",
        "key": {"@id": "labels/name"},
        "field": [
            _field("labels", "number", "sc:Integer", "the label of the records"),
            _field("labels", "name", "sc:Text", "of the class"),
        ],
        "data": [{"labels/number": number, "labels/name": name} for number, name in enumerate(manifest.labels)],
    }


def _splits(manifest: Manifest) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            _field("splits", "name", "sc:Text", "of the split"),
            _field("splits", "images", "sc:Integer", "how many it holds"),
        ],
        "data": [{"splits/name": name, "splits/images": manifest.num_examples(name)} for name in manifest.splits],
    }


def _images() -> dict[str, Any]:
    fields = []
    for column, (kind, about) in _COLUMNS.items():
        more: dict[str, Any] = {"source": {"fileSet": {"@id": "tables"}, "extract": {"column": column}}}
        if column in _REFERENCES:
            more["references"] = {"field": {"@id": _REFERENCES[column]}}
        fields.append(_field("images", column, kind, about, **more))
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "What is known of each image of the splits; the pixels are in the shards.",
        "field": fields,
    }
