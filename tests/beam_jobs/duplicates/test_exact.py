import json
import random

from beam_jobs.duplicates.exact import resolve
from beam_jobs.elements import Row
from tests.beam_jobs.image_folders import make_row


def row(name: str, *, pixels: int, label: str = "cat", official: str | None = None) -> Row:
    return make_row(name, id=name.encode().ljust(32, b"-"), pixels=bytes([pixels]) * 32, label=label, official=official)


def outcome(rows):
    """Resolves rows, whatever order they come in, to (URIs kept, URI → code of the rejects, groups)."""
    results = []
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        resolved = resolve(shuffled)
        rejects = {reject.item.uri: reject.code for reject in resolved.rejects}
        results.append(
            (sorted(r.item.uri for r in resolved.kept), rejects, sorted(group.line for group in resolved.groups))
        )
    assert all(result == results[0] for result in results)
    kept, rejects, groups = results[0]
    return kept, rejects, [json.loads(line) for line in groups]


def test_of_equal_images_the_smallest_hash_stays():
    kept, rejects, groups = outcome([row("b", pixels=1), row("a", pixels=1), row("c", pixels=2)])
    assert kept == ["a", "c"]
    assert rejects == {"b": "duplicate"}
    assert [(g["kind"], g["kept"], [m["uri"] for m in g["members"]]) for g in groups] == [("exact", ["a"], ["a", "b"])]


def test_one_picture_under_two_labels_is_held_out_entirely():
    rows = [row("a", pixels=1), row("b", pixels=1, label="dog"), row("c", pixels=1)]
    kept, rejects, groups = outcome(rows)
    assert kept == []
    assert rejects == dict.fromkeys("abc", "label_conflict")
    assert groups[0]["kind"] == "conflict"


def test_the_test_image_stays_and_its_training_copies_go():
    rows = [
        row("a", pixels=1, official="train"),
        row("b", pixels=1, official="validation"),
        row("z", pixels=1, official="test"),
    ]
    kept, rejects, _ = outcome(rows)
    assert kept == ["z"]
    assert rejects == {"a": "train_copy_of_test", "b": "train_copy_of_test"}


def test_a_training_copy_with_another_label_does_not_cost_the_test_image():
    rows = [row("a", pixels=1, official="train", label="dog"), row("z", pixels=1, official="test")]
    kept, rejects, _ = outcome(rows)
    assert kept == ["z"]
    assert rejects == {"a": "train_copy_of_test"}
