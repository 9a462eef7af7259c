import json
import pathlib

from tests import datasets
from tests.trainer.runs import SOLVED, small_recipe
from trainer.train.outlook import remarks


def _dataset(folder, *, common, rare, validation):
    records = (
        datasets.coloured_records(2 * common, classes=2)[::2] + datasets.coloured_records(2 * rare, classes=2)[1::2]
    )
    splits = {"train": records}
    if validation:
        splits["validation"] = datasets.coloured_records(validation, classes=2, seed=3)
    return datasets.write_dataset(folder, splits, ["other", "rose"])


def test_labels_whose_numbers_differ_by_more_than_ten(tmp_path):
    data = _dataset(tmp_path / "a", common=150, rare=6, validation=200)
    (text,) = remarks(small_recipe(), data)
    assert text.startswith("train has 150 images of other and 6 of rose")
    assert "--set=class_weights=balanced" in text
    assert "--set=selection_metric=balanced_accuracy" in text
    (text,) = remarks(small_recipe("class_weights=balanced", "selection_metric=balanced_accuracy"), data)
    assert "--set" not in text
    assert not [*remarks(small_recipe(), _dataset(tmp_path / "b", common=60, rare=6, validation=200))]


def test_without_validation_and_with_little(tmp_path):
    (text,) = remarks(small_recipe(), _dataset(tmp_path / "a", common=5, rare=5, validation=0))
    assert "no validation split" in text
    assert "--validation_fraction=0.1" in text
    assert "cross-validation" not in text
    (text,) = remarks(small_recipe(*SOLVED), _dataset(tmp_path / "c", common=5, rare=5, validation=0))
    assert "of the head alone cross-validation will tell" in text
    (text,) = remarks(small_recipe(), _dataset(tmp_path / "b", common=5, rare=5, validation=49))
    assert text == "49 validation images: an accuracy of 90 % on them is uncertain by 8 points either way"


def test_counts_are_the_builders_or_else_those_of_the_records(tmp_path):
    data = _dataset(tmp_path, common=12, rare=3, validation=0)
    assert data.label_counts("train") == [12, 3]
    statistics = pathlib.Path(data.path) / "statistics.json"
    for content, expected in (
        ({"splits": {"train": {"labels": {"other": 11, "rose": 4}}}}, [11, 4]),
        ({"splits": {"train": {"labels": {"other": 15}}}}, [15, 0]),
        ({"splits": {"train": {"labels": {"other": 1}}}}, [12, 3]),  # of another build
        ({"splits": {"test": {}}}, [12, 3]),
        ([], [12, 3]),
    ):
        statistics.write_text(json.dumps(content))
        assert data.label_counts("train") == expected
    statistics.write_text("{")
    assert data.label_counts("train") == [12, 3]
