"""Tests how a table's columns are found."""

import pytest

from beam_jobs.sources.columns import Columns, find_columns


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["uri", "label"], ("uri", "label", "")),
        (["split", "label", "uri"], ("uri", "label", "split")),
        (["file_name", "label"], ("file_name", "label", "")),
        (["filename", "class"], ("filename", "class", "")),
        (["Image Path", "Class Name", "Set"], ("Image Path", "Class Name", "Set")),
        (["IMAGE", "CATEGORY", "SUBSET"], ("IMAGE", "CATEGORY", "SUBSET")),
        (["id", "image_url", "target", "price"], ("image_url", "target", "")),
        (["uri", "URI", "image", "label", "class"], ("uri", "label", "")),  # as the documentation spells it
        (["Uri", "path", "Label", "category"], ("Uri", "Label", "")),
        (["photo", "name", "label"], ("photo", "label", "")),
        (["class_id", "class", "path"], ("path", "class", "")),
    ],
)
def test_usual_names(names, found):
    assert find_columns(names, {}) == Columns(uri=found[0], label=found[1], split=found[2])


def test_names_that_the_user_gives():
    names = ["image", "path", "Breed", "set", "phase"]
    columns = find_columns(names, {"uri": "path", "label": "breed", "split": "phase"})
    assert columns == Columns(uri="path", label="Breed", split="phase")
    assert find_columns(names, {"uri": "image", "label": "Breed", "split": ""}).split == ""
    assert find_columns(names, {"uri": "image", "label": "Breed"}).split == "set"


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (
            ["image", "path", "label"],
            {},
            "be the uri: give --uri_column=image or --uri_column=path; the",
        ),
        (["uri", "class", "category"], {}, "give --label_column=class or --label_column=category"),
        (["uri", "label", "set", "subset"], {}, "several columns may be the split"),
        (["uri", "Label", "LABEL"], {}, "several columns may be the label"),
        (["a\nb", "label"], {}, 'no column "uri"; the columns are "a b", "label": name the one with --uri_column'),
        (["uri", "label"], {"label": "lable"}, r'no column "lable" \(--label_column\); .*Did you mean "label"'),
        (["uri", "label", "uri"], {}, 'column "uri" appears twice; the columns are "uri", "label", "uri"'),
        (["uri", "label", "spilt"], {}, 'column "spilt" is unknown. Did you mean "split"'),
        ([], {}, "there are no columns"),
        ([f"c{i}" for i in range(1000)], {}, '"c19" and 980 more'),
    ],
)
def test_what_is_missing_or_ambiguous(names, asked, message):
    with pytest.raises(ValueError, match=message):
        find_columns(names, asked)
