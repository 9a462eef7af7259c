"""Tests what becomes of arguments, and that users' own code is what lies on disk at the time of the call."""

import sys

import numpy as np
import pytest

from pipeline.command import UsageError
from pipeline.own_code import find
from tests.trainer.runs import small_recipe
from trainer.api import check, train
from trainer.api.asked import read_own_code_anew, request_of
from trainer.recipes.overrides import override

PLAIN = {"recipe": "photos", "backbone": None, "weights": None, "settings": None, "seed": 0}


def asked(**changed):
    return request_of("data", **{**PLAIN, **changed})


def test_settings_say_what_set_says():
    settings = {
        "head.hidden": 3,
        "augment.flip": True,
        "ema_decay": 0.5,
        "resize_to": None,
        "resize": "pad",
        "phases.0.duration": "3ep",
    }
    recipe = override(small_recipe(), asked(settings=settings).settings)
    assert (recipe.head.hidden, recipe.augment.flip, recipe.ema_decay) == (3, True, 0.5)
    assert (recipe.resize_to, recipe.resize, str(recipe.phases[0].duration)) == (None, "pad", "3ep")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backbone": len}, "a backbone is named by where it is written"),
        ({"seed": -1}, "--seed=-1: must not be negative"),
        ({"settings": {"seed": np.float32(1)}}, "settings: seed is a float32; give"),
        ({"strategy": "miror"}, '--strategy=miror: must be one of auto, tpu, mirrored, multiworker, cpu. Did'),
        ({"cache": "none "}, '--cache=none : must be one of'),
        ({"backbone": "no_such_module:make"}, 'no module "no_such_module"'),
        ({"data": [1]}, "a list is no data; give a path, a pair (images, labels)"),
        ({"data": "/none"}, "--data=/none: no such directory"),
    ],
)  # fmt: skip
def test_what_no_flag_takes_is_refused(tiny_data, tmp_path, given, said):
    with pytest.raises(UsageError) as error:
        train(**{"data": tiny_data.path, "run": tmp_path / "run", **given})
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()
    if not {"strategy", "cache"} & given.keys():
        with pytest.raises(UsageError) as error:
            check(**{"data": tiny_data.path, **given})
        assert said in str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"recipe": "photso"}, "--recipe=photso: no such recipe; there are"),
        ({"backbone": "efficientnet_b9"}, "efficientnet_b9"),
        ({"settings": {"phases.0.lr": 1}}, "phases.0.lr"),
        ({"strategy": "miror"}, "--strategy=miror: must be one of"),
    ],
)
def test_images_in_memory_are_not_built_for_a_recipe_that_is_wrong(tmp_path, given, said):
    images = (np.zeros((4, 8, 8, 3), np.uint8), ["a", "b", "a", "b"])
    with pytest.raises(UsageError) as error:
        train(images, tmp_path / "run", **given)
    assert said in str(error.value)
    assert not list(tmp_path.iterdir())


def test_names_of_labels_are_for_images_in_memory(tiny_data, tmp_path):
    with pytest.raises(UsageError, match="label_names are for images in memory, not for"):
        train(tiny_data.path, tmp_path / "run", label_names=["a", "b", "c"])


def test_own_code_is_what_lies_on_disk(tmp_path, monkeypatch):
    """A module, what it imports, and a file; none of it is run, and other modules stay."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper_anew.py").write_text("VALUE = 1\n")
    (tmp_path / "module_anew.py").write_text("import helper_anew\ndef make(): return helper_anew.VALUE\n")
    (tmp_path / "file_anew.py").write_text(
        "import helper_anew\ndef shade(): return helper_anew.VALUE\ndef recipe(): pass\n"
    )
    (tmp_path / "other_anew.py").write_text("")
    import other_anew  # type: ignore[import-not-found]

    request = asked(backbone="module_anew:make", settings={"augment.policy": "./file_anew.py:shade"})
    names = ("module_anew:make", "./file_anew.py:shade")
    read_own_code_anew(request)
    assert "module_anew" not in sys.modules
    assert [find(name).call() for name in names] == [1, 1]
    (tmp_path / "helper_anew.py").write_text("VALUE = 22\n")
    assert [find(name).call() for name in names] == [1, 1]
    read_own_code_anew(request)
    assert [find(name).call() for name in names] == [22, 22]
    assert sys.modules["other_anew"] is other_anew
    read_own_code_anew(asked(recipe="./file_anew.py"))
    assert find("./file_anew.py:shade").imports[0].source == b"VALUE = 22\n"
