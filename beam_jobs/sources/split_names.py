"""Recognises the names that people give to splits, the same in every source."""

from __future__ import annotations

# Word → split. "eval" and "dev" are what TensorFlow's and the language people's sets call validation; "trainval" is
# what is left where only the test images are set apart (VOC, Oxford Pets).
_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(
        ("validation", "validating", "validate", "valid", "val", "dev", "devel", "development", "eval", "evaluation"),
        "validation",
    ),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}
# Words that say nothing beside a split's, or glued to it ("trainset"): therefore the longer ones first.
_FILLERS = ("dataset", "images", "photos", "image", "split", "data", "imgs", "set", "img")


def split_of(name: str) -> str | None:
    """Returns the split that a name means ("train", "validation" or "test"), or None where it means none.

    Case and separators do not count, nor do words like "set", "images" and "data": `Training`, `VAL`, `test_set`,
    `train-images`, `TrainData`. Any other word does: `steam_train` is no split.

    Args:
      name: as the source spells it: a folder, a value of a table's column, a split of TFDS.
    """
    words = words_of(name)
    # "TrainSet" and "train set" are told apart by nothing here: glued fillers go, whatever the case was.
    found = {split for word in words if (split := _split_word(word)) is not None}
    others = [word for word in words if _split_word(word) is None and word not in _FILLERS]
    return found.pop() if len(found) == 1 and not others else None


def words_of(name: str) -> list[str]:
    """Returns the words of a name, in lower case: what stands between characters that are no letters or digits."""
    return "".join(char if char.isalnum() else " " for char in name.casefold()).split()


def _split_word(word: str) -> str | None:
    if word in _WORDS:
        return _WORDS[word]
    for filler in _FILLERS:
        if word.endswith(filler) and word.removesuffix(filler) in _WORDS:
            return _WORDS[word.removesuffix(filler)]
    return None
