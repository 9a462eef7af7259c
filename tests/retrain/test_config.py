import pathlib

import pytest

from pipeline.command import UsageError
from retrain.config import load_config

MINIMAL = """
input: photos
data: data
runs: runs
models: ../models
gate: {margin: 0.01, minimum_accuracy: 0.9}
"""


def write(tmp_path, text):
    (tmp_path / "sub").mkdir(exist_ok=True)
    file = tmp_path / "sub" / "retrain.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_paths_are_seen_from_the_file_not_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = load_config(write(tmp_path, MINIMAL.replace("runs: runs", "runs: ~/runs")))
    assert config.input == str(tmp_path / "sub" / "photos")
    assert config.data == str(tmp_path / "sub" / "data")
    assert config.runs == str(tmp_path / "home" / "runs")
    assert config.models == str(tmp_path / "models")


def test_a_recipe_may_be_a_file_beside_it(tmp_path):
    file = tmp_path / "retrain.yaml"
    plain = "input: i\ndata: d\nruns: r\nmodels: m\ngate: {minimum_accuracy: 0.5, margin: 0.02}\n"
    file.write_text(plain + "recipe: ./mine.py\n")
    assert load_config(str(file)).recipe == str(tmp_path / "mine.py")
    file.write_text(plain + "recipe: quick\n")
    assert load_config(str(file)).recipe == "quick"


def test_defaults(tmp_path):
    config = load_config(write(tmp_path, MINIMAL))
    assert (config.recipe, config.source, config.seed, config.gate.alpha) == ("photos", "folder", 0, 0.05)
    assert config.build == {"split_by": "hash"}


def test_build_flags_are_added_to_the_default_or_replace_it(tmp_path):
    assert load_config(write(tmp_path, MINIMAL + "build: {max_side: 512}")).build == {
        "split_by": "hash",
        "max_side": 512,
    }
    assert load_config(write(tmp_path, MINIMAL + "build: {split_by: rank}")).build == {"split_by": "rank"}


def test_object_stores_stay_as_they_are(tmp_path):
    assert load_config(write(tmp_path, MINIMAL.replace("data: data", "data: gs://b/data"))).data == "gs://b/data"
    assert load_config(write(tmp_path, MINIMAL.replace("../models", "gs://b/models/"))).models == "gs://b/models"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "recepie: photos", 'unknown key "recepie".*Did you mean "recipe"'),
        (MINIMAL.replace("margin", "margn"), 'gate: unknown key "margn".*Did you mean "margin"'),
        (MINIMAL.replace("input: photos", ""), 'the key "input" is missing'),
        (MINIMAL.replace(", minimum_accuracy: 0.9", ""), 'gate: the key "minimum_accuracy" is missing'),
        (MINIMAL.replace("0.01", "2"), "margin must be a number"),
        (MINIMAL + "seed: -1", "seed must be a whole number"),
        (MINIMAL + "seed: true", "seed must be a whole number"),
        (MINIMAL + "build: [a]", "build must hold"),
        (MINIMAL + "build: {output: x}", "use the key `data:`"),
        (MINIMAL + "train: {set: x}", "use the key `settings:`"),
        (MINIMAL + "settings: {a: [1]}", "settings.a must be a single value"),
        (MINIMAL + "recipe: 3", "recipe must be a name"),
        (MINIMAL.replace("input: photos", "input: 3"), "input must be a path"),
        ("- a\n- b\n", "expected `key: value`"),
        ("a: [\n", "not valid YAML"),
        ("", "expected `key: value`"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(str(tmp_path / "none.yaml"))


def test_the_example_is_valid():
    example = pathlib.Path(__file__).parents[2] / "examples" / "retrain.yaml"
    assert load_config(str(example)).build["split_by"] == "hash"
