import pytest

from beam_jobs import labels
from pipeline.command import DataError


@pytest.mark.parametrize(
    ("ordered", "rule"),
    [
        (["1", "2", "10"], labels.BY_NUMBER),
        (["0", "007", "08b", "8", "9" * 30, "1" + "0" * 5000], labels.BY_NUMBER),
        (["2_bird", "10_cat", "10_dog"], labels.BY_NUMBER),
        (["1", "10", "2", "a"], labels.BY_TEXT),
        (["B", "a", "é"], labels.BY_TEXT),
        (["a10", "a9"], labels.BY_TEXT),
        (["1", "²"], labels.BY_TEXT),
    ],
)
def test_labels_that_all_begin_with_a_number_are_in_its_order(ordered, rule):
    assert labels.ordered(reversed(ordered)) == (tuple(ordered), rule)


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("a\u2028b", r"a\\u2028b"),
        ("a\nb", r"a\\nb"),
        ("a\tb", r"a\\tb"),
        ("a\x1b[2J", r"a\\x1b"),
        ("\udc80", r"\\udc80"),
        ("\u202eb", r"\\u202e"),
        ("a\ufeff", r"\\ufeff"),
        (" ", "' '"),
        ("", "''"),
    ],
)
def test_labels_that_are_no_line_of_text_are_refused_and_shown_escaped(label, shown):
    for official in (False, True):
        with pytest.raises(DataError, match=shown):
            labels.check(["cat", label], official=official)


def test_text_of_all_scripts_is_a_label():
    labels.check(["猫\u3000犬", "می\u200cخواهم", "👩\u200d🔬", "crème brûlée", "a b", "x" * 300], official=False)


@pytest.mark.parametrize(
    "alike",
    [("Cat", "cat"), ("cat", "cat "), ("cat", "_cat"), ("straße", "STRASSE"), ("\ufb01sh", "fish"), ("a b", "a_b")],
)
def test_labels_that_nobody_can_tell_apart_are_refused_by_both_names(alike):
    with pytest.raises(DataError) as caught:
        labels.check(["dog", *alike], official=False)
    assert all(repr(label) in str(caught.value) for label in alike)
    labels.check(["dog", *alike], official=True)


def test_letters_are_classes_of_handwriting():
    labels.check(["a", "A", "b", "B"], official=False)
