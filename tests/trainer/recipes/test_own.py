"""Tests recipes that users write, and what a run keeps of users' code."""

import dataclasses
import json
import shutil
import sys

import pytest

from pipeline.command import UsageError
from pipeline.format import storage
from pipeline.own_code import find
from tests import datasets
from trainer.recipes import own
from trainer.recipes.load import load_recipe, resolve
from trainer.recipes.overrides import to_dict
from trainer.recipes.recipe import DataFacts, Recipe
from trainer.request import Request
from trainer.rundir import refuse_another_run, settings

FACTS = DataFacts(num_train=100, num_classes=3, max_side=64)
RECIPE = """
from trainer.models import HeadConfig
from trainer.recipes.recipe import Phase, Recipe
from trainer.recipes.schedule import Duration

def recipe(facts{more}):
    return Recipe(
        name="mine", backbone={backbone}, weights={weights}, image_size=32, head=HeadConfig(), batch_size={batch},
        phases=(Phase(name="all", duration=Duration.parse("1ep"), lr_max=0.01),),
    )
"""
NETS = """
def net(images, *, image_size=48, preprocess="unit"):
    return images

def policy(image, seed):
    return image
"""


def write(folder, name="mine.py", **values):
    values = {"more": "", "backbone": "'cifar10_cnn'", "weights": "'none'", "batch": "facts.num_train // 10", **values}
    (folder / name).write_text(RECIPE.format(**values))
    return str(folder / name)


@pytest.fixture
def data(tmp_path):
    return datasets.write_dataset(tmp_path / "data", {"train": datasets.coloured_records(20, classes=2)}, ["a", "b"])


def request(recipe, *assignments, backbone=None, weights=None):
    return Request(data="", recipe=recipe, backbone=backbone, weights=weights, settings=assignments, seed=0)


def test_a_file_is_a_recipe_like_any_other(tmp_path, monkeypatch, data):
    path = write(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in (path, "./mine.py", "mine.py", "~/mine.py"):
        found = load_recipe(name, FACTS)
        assert isinstance(found, Recipe)
        assert (found.name, found.batch_size, found.backbone) == ("mine", 10, "cifar10_cnn")
    assert resolve(request(path, "batch_size=7"), data).batch_size == 7
    with pytest.raises(UsageError, match=r"--recipe=mine: no such recipe; .* Did you mean --recipe=\./mine\.py"):
        load_recipe("mine", FACTS)


def test_a_backbone_is_handed_over_where_the_recipe_takes_one(tmp_path):
    path = write(tmp_path, more=", backbone='cifar10_cnn'", backbone="backbone")
    assert load_recipe(path, FACTS).backbone == "cifar10_cnn"
    assert load_recipe(path, FACTS, backbone="vgg16").backbone == "vgg16"
    path = write(tmp_path, "alone.py")
    with pytest.raises(UsageError, match=r"alone\.py: recipe: it takes no backbone, so --backbone=vgg16"):
        load_recipe(path, FACTS, backbone="vgg16")
    path = write(tmp_path, "needs.py", more=", net", backbone="net")
    assert load_recipe(path, FACTS, backbone="vgg16").backbone == "vgg16"
    with pytest.raises(UsageError, match=r'needs\.py: recipe: its "net" has no default; give one, or --backbone=NAME'):
        load_recipe(path, FACTS)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"batch": "0"}, r"mine\.py:7: batch_size must be 1 or more, got 0"),
        ({"backbone": "'vgg61'"}, r'mine\.py:7: no backbone "vgg61".* Did you mean "vgg16"'),
        ({"batch": "facts.no_such"}, r"mine\.py:\d+: AttributeError: 'DataFacts' object has no attribute 'no_such'"),
        ({"batch": "8, no_such=3"}, r"mine\.py:7: TypeError: .*unexpected keyword argument 'no_such'"),
        ({"batch": "("}, r"mine\.py:\d+: "),
        ({"backbone": "'./no_such.py:f'"}, r"mine\.py:7: .*no_such\.py cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, values, says):
    with pytest.raises(UsageError, match=says) as raised:
        load_recipe(write(tmp_path, **values), FACTS)
    assert len(str(raised.value).splitlines()) == 1


def test_what_is_no_recipe_is_said(tmp_path):
    (tmp_path / "none.py").write_text("def recipe(facts):\n    return {'batch_size': 3}\n")
    with pytest.raises(UsageError, match=r"none\.py: recipe: returns dict, not a trainer\.recipes\.recipe\.Recipe"):
        load_recipe(str(tmp_path / "none.py"), FACTS)
    (tmp_path / "empty.py").write_text("def recipes(facts): pass\n")
    with pytest.raises(UsageError, match='no function "recipe" in it; it defines recipes. Did you mean "recipes"'):
        load_recipe(str(tmp_path / "empty.py"), FACTS)
    with pytest.raises(UsageError, match="cannot be read"):
        load_recipe(str(tmp_path / "absent.py"), FACTS)


def test_own_backbones_have_their_own_weights(tmp_path, data):
    nets = tmp_path / "nets.py"
    nets.write_text(NETS)
    recipe = resolve(request("photos", backbone=f"{nets}:net"), data)
    assert (recipe.backbone, recipe.image_size, recipe.weights) == (f"{nets}:net", 48, "none")
    assert resolve(request("photos", f"backbone={nets}:net"), data).weights == "none"
    for asked in (request("photos", backbone=f"{nets}:net", weights="imagenet"),
                  request("photos", "weights=imagenet", backbone=f"{nets}:net")):  # fmt: skip
        with pytest.raises(UsageError, match="weights=imagenet: .*nets.py:net is your own"):
            resolve(asked, data)


def test_a_home_is_expanded_in_a_recipes_own_paths(tmp_path, monkeypatch, data):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(request(write(tmp_path, weights="'~/w.h5'")), data).weights == f"{tmp_path}/w.h5"


def run_with(tmp_path, data, nets, recipe_file):
    """Begins a run that rests on code in all three places; returns its folder, and what its config.json holds."""
    asked = request(recipe_file, f"augment.policy={nets}:policy", f"backbone={nets}:net")
    recipe = resolve(asked, data)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    own.copy_into(run, own.own_code(asked.recipe, recipe))
    config = settings(asked, data, recipe, asked_batch_size=recipe.batch_size, cores=0)
    (run / "config.json").write_text(json.dumps(config))
    return run, config


@pytest.fixture
def began(tmp_path, data):
    nets = tmp_path / "nets.py"
    nets.write_text(NETS)
    return run_with(tmp_path, data, str(nets), write(tmp_path))


def test_a_run_keeps_the_sources_and_says_which(began, tmp_path):
    run, config = began
    assert sorted(file.name for file in (run / "own_code").iterdir()) == ["backbone.py", "policy.py", "recipe.py"]
    assert (run / "own_code" / "policy.py").read_text() == NETS
    assert config["own_code"]["backbone"] == {
        "file": str(tmp_path / "nets.py"),
        "function": "net",
        "sha256": find(f"{tmp_path}/nets.py:net").sha256,
    }
    assert own.record({}) == {}


def test_a_changed_source_is_refused_by_name(began, tmp_path, data):
    run, config = began
    refuse_another_run(run, config)
    for role, file in (("recipe", "mine.py"), ("backbone", "nets.py"), ("policy", "nets.py")):
        now = json.loads(json.dumps(config))
        now["own_code"][role]["sha256"] = "0" * 64
        with pytest.raises(UsageError, match=rf"{tmp_path}/{file} has changed since .*/own_code/{role}\.py is as it"):
            refuse_another_run(run, now)


@pytest.fixture
def with_helpers(tmp_path, data, monkeypatch):
    """A run with a backbone that imports a file beside it, which imports another one; started elsewhere."""
    code = tmp_path / "code"
    (code / "own_helpers").mkdir(parents=True)
    (code / "nets.py").write_text("from own_helpers.sizes import SIDE\n" + NETS.replace("return images", "return SIDE"))
    (code / "own_helpers" / "sizes.py").write_text("from own_numbers import SIDE\n")
    (code / "own_numbers.py").write_text("SIDE = 48\n")
    monkeypatch.chdir(tmp_path)
    yield code, *run_with(tmp_path, data, str(code / "nets.py"), write(code))
    for name in ("own_helpers", "own_helpers.sizes", "own_numbers"):
        sys.modules.pop(name, None)


def test_what_own_code_imports_is_kept_and_runs_from_the_run(with_helpers):
    code, run, config = with_helpers
    assert sorted(config["own_code"]["backbone"]["imports"]) == ["own_helpers/sizes.py", "own_numbers.py"]
    assert "imports" not in config["own_code"]["recipe"]
    shutil.rmtree(code)
    find.cache_clear()
    recipe = load_recipe(str(run / "config.json"), FACTS)
    assert find(recipe.backbone).load()(None) == 48
    for file in ("config.json", "own_code/backbone.py", "own_code/policy.py", "own_code/imported/own_numbers.py",
                 "own_code/imported/own_helpers/sizes.py"):  # fmt: skip
        storage.write_atomically(f"memory://own/helped/{file}", (run / file).read_bytes())
    for name in ("own_helpers", "own_helpers.sizes", "own_numbers"):
        del sys.modules[name]
    remote = load_recipe("memory://own/helped/config.json", FACTS)
    assert find(remote.backbone).load()(None) == 48


def forget_own_nets():
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_nets"]:
        del sys.modules[name]
    find.cache_clear()


@pytest.fixture
def forgotten():
    forget_own_nets()
    yield
    forget_own_nets()


@pytest.mark.parametrize("place", ["own_nets.models.large", "own_nets/models/large.py"])
@pytest.mark.parametrize("has_init", [True, False])
def test_relative_imports_work_from_the_run(tmp_path, data, monkeypatch, forgotten, place, has_init):
    package = tmp_path / "own_nets" / "models"
    package.mkdir(parents=True)
    (package / "large.py").write_text("from ..parts.sizes import SIDE\n" + NETS.replace("return images", "return SIDE"))
    (tmp_path / "own_nets" / "parts").mkdir()
    (tmp_path / "own_nets" / "parts" / "sizes.py").write_text("SIDE = 48\n")
    for folder in ("", "models", "parts"):
        if has_init:
            (tmp_path / "own_nets" / folder / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    if place.endswith(".py") and not has_init:
        with pytest.raises(UsageError, match=r"large\.py:1: ImportError: attempted relative import"):
            find(f"{place}:net").load()
        return
    assert find(f"{place}:net").load()(None) == 48
    run, config = run_with(tmp_path, data, place, write(tmp_path))
    refuse_another_run(run, config)
    shutil.rmtree(tmp_path / "own_nets")
    forget_own_nets()
    recipe = load_recipe(str(run / "config.json"), FACTS)
    assert find(recipe.backbone).load()(None) == 48
    assert recipe.backbone == f"{run}/own_code/imported/own_nets/models/large.py:net"


def test_a_change_of_what_own_code_imports_is_refused_by_name(with_helpers, tmp_path, data):
    code, run, config = with_helpers
    refuse_another_run(run, config)
    before = own.digests({"backbone": find(f"{code}/nets.py:net")})
    (code / "own_numbers.py").write_text("SIDE = 64\n")
    find.cache_clear()
    assert own.digests({"backbone": find(f"{code}/nets.py:net")}) != before
    _, now = run_with(tmp_path / "other", data, str(code / "nets.py"), str(code / "mine.py"))
    said = rf"own_numbers\.py, which {code}/nets\.py imports, has changed .*/imported/own_numbers\.py is as it was"
    with pytest.raises(UsageError, match=said):
        refuse_another_run(run, now)
    for role in ("backbone", "policy"):
        del config["own_code"][role]["imports"]
    (run / "config.json").write_text(json.dumps(config))  # of a version that did not record them
    refuse_another_run(run, now)


def test_where_a_source_lies_is_no_setting(began, tmp_path, data):
    run, _ = began
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("nets.py", "mine.py"):
        (tmp_path / name).rename(moved / name)
    _, config = run_with(moved, data, str(moved / "nets.py"), str(moved / "mine.py"))
    assert config["recipe"]["backbone"] == f"{moved}/nets.py:net"
    refuse_another_run(run, config)
    config["recipe"]["backbone"] = "vgg16"
    del config["own_code"]["backbone"]
    with pytest.raises(UsageError, match="recipe.backbone: .*vgg16"):
        refuse_another_run(run, config)


def test_a_run_goes_on_with_its_own_configuration(began, data):
    run, config = began
    asked = request(str(run / "config.json"))
    now = settings(asked, data, resolve(asked, data), asked_batch_size=2, cores=0)
    assert sorted(now["own_code"]) == ["backbone", "policy"]
    refuse_another_run(run, now)
    plain = {key: value for key, value in config.items() if key != "own_code"}
    (run / "config.json").write_text(json.dumps(plain))  # of a version that knew no such code
    refuse_another_run(run, config)


def test_a_runs_configuration_starts_another_with_its_copies(began, tmp_path):
    run, _ = began
    for name in ("nets.py", "mine.py"):
        (tmp_path / name).unlink()
    find.cache_clear()
    recipe = load_recipe(str(run / "config.json"), FACTS)
    assert recipe.backbone == f"{run}/own_code/backbone.py:net"
    assert recipe.augment.policy == f"{run}/own_code/policy.py:policy"
    assert list(own.own_code("config.json", recipe)) == ["backbone", "policy"]
    for file in ("config.json", "own_code/backbone.py", "own_code/policy.py"):
        storage.write_atomically(f"memory://own/run/{file}", (run / file).read_bytes())
    remote = load_recipe("memory://own/run/config.json", FACTS)
    assert find(remote.backbone).source == NETS.encode()


def test_a_finished_run_is_done_by_the_same_code_only(began, data):
    run, _ = began
    asked = request("mine.py")
    code = {"recipe": "recipe 0123"}
    asked.mark_done(run, data, code)
    assert asked.is_done(run, data, lambda: code)
    assert not asked.is_done(run, data, lambda: {"recipe": "recipe 4567"})
    assert not dataclasses.replace(asked, seed=1).is_done(run, data, lambda: code)
    asked.mark_done(run, data, {})

    def not_asked():
        raise AssertionError("a run without such code asks for none")

    assert asked.is_done(run, data, not_asked)


def test_own_code_is_none_of_a_recipe_of_ours():
    assert own.own_code("photos", load_recipe("photos", FACTS)) == {}
    assert "own_code" not in to_dict(load_recipe("photos", FACTS))
