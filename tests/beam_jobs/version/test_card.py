"""Tests the files for TFDS against what TFDS itself writes."""

import numpy as np
import tensorflow_datasets as tfds
from huggingface_hub import DatasetCard

from beam_jobs.elements import Plan
from beam_jobs.shards import shard_name
from beam_jobs.version.card import dataset_card, tfds_metadata
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


def test_the_card_says_what_was_left_out_and_how_the_classes_are_ordered(tmp_path):
    shard = Shard(name="photos-train.tfrecord-00000-of-00001", examples=4, bytes=9, sha256="")
    manifest = Manifest(
        name="photos",
        version="1.0.0",
        labels=("2", "10"),
        label_order="number",
        splits={"train": (shard,)},
        source_fingerprint="",
        build={},
        code_version="",
        max_height=1,
        max_width=1,
    )
    plan = Plan(
        version="1.0.0",
        total=5,
        fingerprint="",
        key="",
        labels=manifest.labels,
        label_order="number",
        shards={"train": 1},
        examples={"train": {"2": 2, "10": 2}},
        rejects={"truncated": 1},
        left_out=(("hidden", 1, (".a.png",)), ("sidecar", 7, ("2/a.txt", "2/b\n.txt"))),
        notes=("warning: look at this",),
    )
    card = dataset_card(manifest, plan.examples, plan)
    header = DatasetCard(card).data
    assert header.task_categories == ["image-classification"]
    assert header.size_categories == ["n<1K"]
    assert "- warning: look at this\n" in card
    assert "| truncated | 1 |" in card
    assert "- 1 hidden file or folder: .a.png\n- 7 sidecar files (.txt, .json, …): 2/a.txt, 2/b\\n.txt, …\n" in card
    assert card.index("| 2 | 2 |") < card.index("| 10 | 2 |") < card.index("the numbers that their names begin with")
