"""Tests that how the search is partitioned does not matter, that crowds are dealt out, and how members are found."""

import collections
import hashlib

import numpy as np
import pytest

from beam_jobs.duplicates import lsh, near
from beam_jobs.duplicates.alike import COMPONENT
from beam_jobs.duplicates.near import Members
from pipeline.images.facts import ImageFacts
from pipeline.images.look import inspect
from pipeline.images.policy import PixelPolicy


@pytest.fixture(scope="module")
def crowded_sketches(shared_data):
    """Crowds the buckets with copies of 100 photos, so that not all images of a bucket are compared."""
    rows = []
    for number, path in enumerate(sorted((shared_data / "flowers").rglob("*.jpg"))[::8]):
        facts = inspect(path.read_bytes(), PixelPolicy())
        assert isinstance(facts, ImageFacts)
        flat = np.frombuffer(facts.perceptual_hash, np.uint8)
        for copy in range(45 if number < 3 else 2):
            changed = flat.copy()
            changed[20 + copy] ^= 1
            rows.append((changed, np.void(hashlib.sha256(bytes([number, copy])).digest()[:16])))
    return np.array(rows, lsh.SKETCH)


def found_in_partitions(sketches, crowded):
    """Searches as the graph does; returns the pairs found and the sizes of the partitions."""
    partitions = collections.defaultdict(list)
    for at in range(0, len(sketches), 50):
        for key, block in near.partitions_of(sketches[at : at + 50], 3, crowded):
            partitions[key].append(block)
    packed = near.pack(sorted(crowded.items()))
    pairs = [near.search(element, packed)[1] for element in partitions.items()]
    sizes = {key: sum(map(len, blocks)) // lsh.SKETCH.itemsize for key, blocks in partitions.items()}
    return np.frombuffer(b"".join(pairs), lsh.EDGE), sizes


def test_parts_of_bands_find_the_pairs_that_whole_bands_find(crowded_sketches):
    found, sizes = found_in_partitions(crowded_sketches, {})
    whole = lsh.similar(crowded_sketches.copy())
    assert len(sizes) > lsh.BANDS
    assert len(whole) > 100
    for threshold in (0.0, 0.85, 0.93, 0.99):
        expected = lsh.components(whole, at_least=threshold)
        assert np.array_equal(lsh.components(found, at_least=threshold), expected)


def test_crowded_buckets_are_dealt_out_and_their_copies_still_meet(crowded_sketches, monkeypatch):
    monkeypatch.setattr(near, "_CROWD", 20)
    monkeypatch.setattr(near, "_SAMPLED", 1)
    buckets = lsh.buckets_of(crowded_sketches)
    counts = [sorted(collections.Counter(of_band).items()) for of_band in buckets.T.tolist()]
    crowded = near.crowds_of(near.find_crowds((None, [near.pack(counts)])))
    assert len(crowded) > lsh.BANDS
    assert all((buckets[:, band] == bucket).sum() > 20 for band, bucket in crowded)
    found, sizes = found_in_partitions(crowded_sketches, crowded)
    # By chance a share holds more than its part; and others come that look for partners there.
    assert max(size for (*_, bits, _, _), size in sizes.items() if bits == lsh.BUCKET_BITS) < 50
    expected = lsh.components(lsh.similar(crowded_sketches.copy()))
    assert np.array_equal(lsh.components(found), expected)


def test_members_are_found_though_ids_begin_alike():
    ids = [b"a" * 8 + bytes([number]) * 8 for number in range(1, 4)] + [b"\0" * 16, b"\xff" * 16, b"b" * 16]
    table = np.zeros(len(ids), COMPONENT)
    for row, item in zip(table, sorted(ids), strict=True):
        row["id"], row["component"], row["picture"] = item, item[::-1], b"p" * 16
    members = Members(table.tobytes())
    assert [members.find(item) for item in ids] == [(item[::-1], b"p" * 16) for item in ids]
    assert members.find(b"a" * 16) is members.find(b"a" * 15 + b"\0") is members.find(b"c" * 16) is None
    assert Members(b"").find(b"a" * 16) is None
