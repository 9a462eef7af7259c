"""Tests the files for TFDS against what TFDS itself writes."""

import numpy as np
import tensorflow_datasets as tfds

from beam_jobs.shards import shard_name
from beam_jobs.version.card import tfds_metadata
from pipeline.format.manifest import Manifest, Shard


def test_the_files_are_the_ones_that_tfds_would_write(tmp_path):
    shards = {"train": (("a", 1522, 217), ("b", 1634, 1 << 40)), "test": (("c", 1, 99),)}
    manifest = Manifest(
        name="photos_2",
        version="3.0.0",
        labels=("zebra", "Ätna 山", "a b"),
        splits={
            split: tuple(Shard(name=name, examples=examples, bytes=size, sha256="") for name, examples, size in rows)
            for split, rows in shards.items()
        },
        source_fingerprint="",
        build={},
        code_version="",
        max_height=1,
        max_width=1,
    )
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=list(manifest.labels)),
        "id": tfds.features.Text(),
        "source": tfds.features.Text(),
        "height": np.int64,
        "width": np.int64,
    }
    for split, rows in shards.items():
        for shard in range(len(rows)):
            (tmp_path / shard_name(name="photos_2", split=split, shard=shard, count=len(rows))).touch()
    tfds.folder_dataset.write_metadata(
        data_dir=tmp_path,
        features=tfds.features.FeaturesDict(features),
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[examples for _, examples, _ in rows],
                num_bytes=sum(size for *_, size in rows),
                filename_template=None,
            )
            for split, rows in shards.items()
        ],
        version=manifest.version,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        check_data=False,
    )
    written = {
        path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir() if ".tfrecord" not in path.name
    }
    assert tfds_metadata(manifest) == written
