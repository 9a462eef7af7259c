"""Tests near duplicates: the search against all-pairs comparison, on real photos and copies, and what is decided."""

import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import sparse
from scipy.sparse import csgraph

from beam_jobs.duplicates import lsh
from beam_jobs.duplicates.alike import find_components, resolve_component
from pipeline.command import CommandError
from pipeline.images import hashing
from pipeline.images.facts import ImageFacts
from pipeline.images.look import inspect
from pipeline.images.policy import PixelPolicy
from tests.beam_jobs.image_folders import make_row, run_build, save_image


def jpeg(image, quality=90):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def hash_of(image, quality=90):
    facts = inspect(jpeg(image, quality), PixelPolicy())
    assert isinstance(facts, ImageFacts)
    return facts.perceptual_hash


def sketches_of(hashes):
    rows = np.zeros(len(hashes), lsh.SKETCH)
    for number, value in enumerate(hashes):
        rows[number]["hash"] = np.frombuffer(value, np.uint8)
        rows[number]["id"] = np.void(number.to_bytes(lsh.ID_BYTES, "big"))
    return rows


def groups(edges):
    members = {}
    for item, component in lsh.components(edges).tolist():
        members.setdefault(component, set()).add(int.from_bytes(item, "big"))
    return sorted(map(frozenset, members.values()), key=min)


def cropped(image, *, left=0.0, top=0.0, right=0.0, bottom=0.0):
    width, height = image.size
    return image.crop(
        (round(width * left), round(height * top), round(width * (1 - right)), round(height * (1 - bottom)))
    )


COPIES = {
    "recompressed": lambda i: Image.open(io.BytesIO(jpeg(i, 40))),
    "half": lambda i: i.resize((i.width // 2, i.height // 2)),
    "double": lambda i: i.resize((i.width * 2, i.height * 2)),
    "squashed": lambda i: i.resize((200, 200)),
    "cropped": lambda i: cropped(i, left=0.025, top=0.025, right=0.025, bottom=0.025),
    "cropped off one side": lambda i: cropped(i, right=0.05),
    "flipped": ImageOps.mirror,
    "brighter": lambda i: ImageEnhance.Brightness(i).enhance(1.2),
    "darker": lambda i: ImageEnhance.Brightness(i).enhance(0.8),
}


@pytest.fixture(scope="module")
def photos(shared_data):
    return [Image.open(path).convert("RGB") for path in sorted((shared_data / "flowers").rglob("*.jpg"))[::8]]


@pytest.fixture(scope="module")
def originals(photos):
    return [hash_of(image) for image in photos]


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_grouped_with_their_original_and_with_nothing_else(photos, originals, name):
    copies = [hash_of(COPIES[name](image)) for image in photos]
    found = groups(lsh.similar(sketches_of(originals + copies)))
    count = len(photos)
    assert all({n % count for n in group} == {min(group)} for group in found), "different photos in one group"
    assert len(found) >= 0.97 * count


def all_pairs(hashes):
    """Computes the same similarity without any index: the reference for the banded search."""
    vectors, windows = hashing.describe(hashes), hashing.describe_windows(hashes)
    best = np.full((len(hashes), len(hashes)), -1.0)
    for window in windows.swapaxes(0, 1):
        best = np.maximum(best, np.maximum(window @ vectors.T, (window * hashing.MIRROR) @ vectors.T))
    best = np.maximum(best, best.T)
    np.fill_diagonal(best, -1)
    return best


def test_the_search_finds_what_comparing_all_pairs_finds(photos, originals):
    kinds = ("half", "cropped", "flipped")
    copies = [hash_of(COPIES[kind](image)) for kind in kinds for image in photos[::3]]
    sketches = sketches_of(originals + copies)
    truth = all_pairs(sketches["hash"])
    edges = lsh.similar(sketches)
    for a, b, permille in edges.tolist():
        similarity = truth[int.from_bytes(a, "big"), int.from_bytes(b, "big")]
        assert similarity >= lsh.SIMILARITY - 1e-5
        assert permille <= round(similarity * 1000)
    found = set(frozenset.union(*groups(edges)))
    wanted = set(np.flatnonzero(truth.max(axis=1) >= lsh.SIMILARITY).tolist())
    assert found <= wanted
    assert len(found) >= 0.97 * len(wanted)


def test_the_answer_depends_neither_on_order_nor_on_how_the_bands_are_shared_out(photos, originals):
    sketches = sketches_of(originals + [hash_of(COPIES["cropped"](image)) for image in photos])
    whole = groups(lsh.similar(sketches))
    assert groups(lsh.similar(np.random.default_rng(0).permutation(sketches))) == whole
    parts = [lsh.similar(sketches, range(first, lsh.BANDS, 3)) for first in range(3)]
    assert groups(np.concatenate(parts)) == whole


def test_a_mirrored_image_stands_in_the_same_buckets(originals):
    hashes = np.stack([np.frombuffer(value, np.uint8) for value in originals])
    positive = hashing.describe(hashes) > 0
    mirrored = hashing.describe(hashes) * hashing.MIRROR > 0
    nonzero = (hashing.levels(hashes) != 0).all(axis=1)
    keys, mirrored_keys = lsh._band_keys(positive), lsh._band_keys(mirrored)
    assert (keys[nonzero] == mirrored_keys[nonzero]).all()
    assert len(np.unique(keys[:, 0])) > len(keys) / 3
    assert keys.min() >= 0
    assert keys.max() < 1 << lsh.BUCKET_BITS


def test_windows_are_what_cropping_does(photos):
    image = photos[0]
    cut = cropped(image, left=0.05, top=0.05, right=0.05, bottom=0.05)
    hashes = np.stack([np.frombuffer(hash_of(i), np.uint8) for i in (image, cut)])
    vectors, windows = hashing.describe(hashes), hashing.describe_windows(hashes)
    similarity = windows[0] @ vectors[1]
    assert similarity.argmax() == hashing.WINDOWS.index((0.05,) * 4)
    assert similarity.max() > similarity[0] + 0.1
    np.testing.assert_allclose(windows[:, 0], vectors, atol=1e-5)


def test_uniform_images_have_no_hash():
    assert hash_of(Image.new("RGB", (100, 100), "red")) == b""
    assert hash_of(Image.new("L", (100, 100), 255)) == b""


def test_a_crowd_of_equal_hashes_stays_cheap_and_together(originals):
    """Half of all images in one bucket must not make all pairs of them."""
    crowd = sketches_of([originals[0]] * 4_000 + originals[1:50])
    edges = lsh.similar(crowd, range(4))
    sizes = sorted(map(len, groups(edges)))
    assert sizes[-1] == 4_000
    assert len(edges) < 4_100


# --- decisions --------------------------------------------------------------------------------------------------------


def row(number, label="rose", official=None, size=100):
    return make_row(
        f"{label}/{number}.jpg",
        id=number.to_bytes(32, "big"),
        pixels=(number * 7).to_bytes(1, "big") * 32,
        label=label,
        official=official,
        size=(size, size),
    )


def alike(*rows):
    """Makes a component of rows that look alike without showing the same picture."""
    return [(r, r.pixels) for r in rows]


def same(*rows):
    return [(r, b"picture") for r in rows]


def test_group_keeps_all_in_one_group():
    out = resolve_component(alike(row(3), row(1), row(2, "tulip")), mode="group")
    assert {r.item.uri for r in out.kept} == {"rose/1.jpg", "tulip/2.jpg", "rose/3.jpg"}
    assert {(r.group.name, r.group.stratum) for r in out.kept} == {(row(1).pixels, "rose")}
    assert not out.rejects
    assert json.loads(out.groups[0].line)["kind"] == "near"


def test_drop_keeps_the_largest_of_each_label():
    out = resolve_component(alike(row(1, size=50), row(2, size=70), row(3, "tulip")), mode="drop")
    assert {r.item.uri for r in out.kept} == {"rose/2.jpg", "tulip/3.jpg"}
    assert [(r.item.uri, r.code) for r in out.rejects] == [("rose/1.jpg", "near_duplicate")]
    assert "rose/2.jpg" in out.rejects[0].detail


@pytest.mark.parametrize("mode", ["group", "drop"])
def test_one_picture_under_two_labels_is_held_out(mode):
    out = resolve_component(same(row(1), row(2, "tulip")) + alike(row(3)), mode=mode)
    assert {(r.item.uri, r.code) for r in out.rejects} == {
        ("rose/1.jpg", "label_conflict"),
        ("tulip/2.jpg", "label_conflict"),
    }
    assert [r.item.uri for r in out.kept] == ["rose/3.jpg"]
    assert [json.loads(group.line)["kind"] for group in out.groups] == ["near_conflict"]


@pytest.mark.parametrize("mode", ["group", "drop"])
def test_training_images_that_look_like_test_images_go(mode):
    test, copy, other = row(1, official="test", size=10), row(2, official="train"), row(3, "tulip", official="train")
    out = resolve_component(same(test, copy, other), mode=mode)
    assert [r.item.uri for r in out.kept] == [test.item.uri]
    assert {(r.item.uri, r.code) for r in out.rejects} == {(r.item.uri, "train_copy_of_test") for r in (copy, other)}


def test_an_image_without_a_split_follows_the_one_that_it_looks_like():
    out = resolve_component(alike(row(1, official="train"), row(2)), mode="group")
    assert {r.group.official for r in out.kept} == {"train"}


def scene(**labels):
    """Makes a component of so many rows of each label."""
    numbers = itertools.count(1)
    return same(*(row(next(numbers), label) for label, count in labels.items() for _ in range(count)))


@pytest.mark.parametrize("mode", ["group", "drop"])
def test_large_parts_of_two_classes_that_look_alike_are_a_scene_and_no_copies(mode):
    rows = scene(good=9, scratched=5, dusty=1)
    out = resolve_component(rows, mode=mode, sizes={"good": 20, "scratched": 25, "dusty": 50})
    assert sorted(r.pixels for r in out.kept) == sorted(r.pixels for r, _ in rows)
    assert all(r.group.name == r.pixels and r.group.stratum == r.item.label for r in out.kept)
    assert not out.rejects
    assert [json.loads(group.line)["kind"] for group in out.groups] == ["scene"]


@pytest.mark.parametrize(
    ("labels", "sizes"),
    [
        ({"good": 9, "scratched": 4}, {"good": 10, "scratched": 5}),  # a few filed wrongly, in a small class
        ({"good": 25, "scratched": 9}, {"good": 100, "scratched": 50}),  # or in a large one
        ({"good": 6, "scratched": 6}, {"good": 1000, "scratched": 1000}),  # a picture that the web loves
        ({"good": 30}, {"good": 40, "scratched": 40}),  # frames of a film
    ],
)
def test_fewer_or_of_one_class_are_copies(labels, sizes):
    rows = scene(**labels)
    out = resolve_component(rows, mode="group", sizes=sizes)
    expected = resolve_component(rows, mode="group")
    assert (out.kept, out.rejects, out.groups) == (expected.kept, expected.rejects, expected.groups)
    assert "scene" not in {json.loads(group.line)["kind"] for group in out.groups}


def test_the_same_picture_is_a_matter_of_similarity():
    edges = np.zeros(2, lsh.EDGE)
    edges["a"], edges["b"] = [b"a" * 16, b"b" * 16], [b"b" * 16, b"c" * 16]
    edges["permille"] = [990, 800]
    a, b, c = find_components(edges)
    assert (a["id"].tobytes(), b["id"].tobytes(), c["id"].tobytes()) == (b"a" * 16, b"b" * 16, b"c" * 16)
    assert a["component"] == b["component"] == c["component"]
    assert a["picture"] == b["picture"] != c["picture"]


@pytest.mark.parametrize("shape", ["random", "path", "star", "none"])
def test_components_are_those_that_scipy_finds(shape):
    random = np.random.default_rng(0)
    ids = np.sort(random.integers(0, 256, (5_000, 16), np.uint8).view("S16").ravel())
    order = random.permutation(len(ids))
    ends = {
        "random": random.integers(0, len(ids), (4_000, 2)),
        "path": np.stack([order[:-1], order[1:]], axis=1),
        "star": np.stack([np.full(len(ids) - 1, len(ids) - 1), np.arange(len(ids) - 1)], axis=1),
        "none": np.empty((0, 2), np.int64),
    }[shape]
    edges = np.zeros(len(ends), lsh.EDGE)
    edges["a"], edges["b"] = (ids[end].view("V16") for end in ends.T)
    edges["permille"] = 900
    found = lsh.components(edges)
    _, labels = csgraph.connected_components(sparse.coo_array((np.ones(len(ends)), ends.T), (len(ids),) * 2))
    touched = np.unique(ends)
    smallest = {label: ids[labels == label][0] for label in np.unique(labels[touched])}
    assert found["id"].tobytes() == ids[touched].tobytes()
    assert found["component"].view("S16").tolist() == [smallest[label] for label in labels[touched]]
    assert len(lsh.components(edges, at_least=0.95)) == 0


# --- in a build -------------------------------------------------------------------------------------------------------


def build_with_copies(root, mode):
    """Builds 24 pictures, each three times: as it is, smaller, flipped."""
    for number in range(24):
        label = "cat" if number % 2 else "dog"
        path = root / f"in/{label}/{number}.png"
        save_image(path, number, size=(96, 128))
        image = Image.open(path)
        image.resize((100, 75)).save(root / f"in/{label}/{number}-small.jpg", quality=80)
        ImageOps.mirror(image).save(root / f"in/{label}/{number}-flipped.webp", quality=80)
    outcome = run_build(root / "in", root / "out", near_duplicates=mode)
    return outcome, root / "out/versions" / outcome.version


def splits_by_picture(version):
    from pipeline.format.manifest import open_dataset
    from pipeline.format.records import decode_example, read_frames

    data = open_dataset(version)
    splits = {}
    for split in data.manifest.splits:
        for path in data.shard_paths(split):
            with open(path, "rb") as file:
                for payload in read_frames(file):
                    name = decode_example(payload).source.rpartition("/")[2].split(".")[0].split("-")[0]
                    splits.setdefault(name, []).append(split)
    return splits


def test_a_build_keeps_look_alikes_in_one_split(tmp_path):
    _, version = build_with_copies(tmp_path, "group")
    splits = splits_by_picture(version)
    assert {len(found) for found in splits.values()} == {3}
    assert all(len(set(found)) == 1 for found in splits.values())
    assert len({found[0] for found in splits.values()}) == 3
    lines = [json.loads(line) for line in (version / "duplicates.jsonl").read_text().splitlines()]
    assert len(lines) == 24
    assert all(len(line["kept"]) == 3 for line in lines)


@pytest.mark.slow
def test_a_fixed_camera_whose_classes_differ_in_a_scratch_can_be_built(tmp_path):
    save_image(tmp_path / "scene.png", 1, size=(96, 128))
    chance = np.random.default_rng(0)
    with Image.open(tmp_path / "scene.png") as image:
        pixels = np.asarray(image).astype(int)
    for number in range(16):
        part = (pixels + chance.normal(0, 2, pixels.shape)).clip(0, 255).astype(np.uint8)
        if number % 2:
            part[40, 30:60] = 255
        path = tmp_path / f"in/{('good', 'scratched')[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(part).save(path)
    outcome = run_build(tmp_path / "in", tmp_path / "out")
    assert outcome.rejects == {}
    assert {split: sum(of.values()) for split, of in outcome.examples.items()} == {
        "train": 12,
        "validation": 2,
        "test": 2,
    }
    (note,) = outcome.notes
    assert note.startswith(
        "warning: 16 images look alike under different labels, too many for copies (a fixed camera?)"
    )
    for path in (tmp_path / "in/scratched").iterdir():  # one of them: all are the same picture, which stays one
        path.rename(tmp_path / "in/good" / path.name)
    save_image(tmp_path / "in/other/1.png", 7, size=(96, 128))
    save_image(tmp_path / "in/other/2.png", 8, size=(96, 128))
    save_image(tmp_path / "in/other/3.png", 9, size=(96, 128))
    with pytest.raises(CommandError, match='class "good": 1 distinct images for 3 splits .*--near_duplicates=keep'):
        run_build(tmp_path / "in", tmp_path / "out")


def test_a_build_can_drop_look_alikes(tmp_path):
    outcome, version = build_with_copies(tmp_path, "drop")
    assert {len(found) for found in splits_by_picture(version).values()} == {1}
    assert outcome.rejects == {"near_duplicate": 48}
