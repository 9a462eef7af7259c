"""Tests that what is wrong with a command is said before TensorFlow is imported, in one line, and leaves nothing."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from pipeline.format.manifest import open_dataset
from tests import datasets
from trainer.readiness import disk_needs
from trainer.recipes.load import load_recipe, recipe_names, resolve
from trainer.recipes.overrides import override
from trainer.recipes.recipe import DataFacts
from trainer.request import Request
from trainer.rundir import settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Says at its end which of the slow libraries it imported.
_WATCHED = """
import atexit, runpy, sys
slow = lambda: print("imported:", *sorted({"tensorflow", "keras", "jax", "apache_beam"} & set(sys.modules)))
atexit.register(slow)
sys.argv = ["command", *sys.argv[2:]]
runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
"""


def run(module, *flags, **environment):
    """Runs a command; returns its exit code, the line that it ends with on stderr, and what slow it imported."""
    program = _WATCHED.replace("MODULE", repr(module))
    done = subprocess.run(
        [sys.executable, "-c", program, "-", *map(str, flags)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    imported = done.stdout.rpartition("imported:")[2].split()
    return done.returncode, done.stderr.strip().splitlines()[-1], imported


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Writes a small dataset; returns its root."""
    splits = {name: datasets.coloured_records(6, classes=2, seed=i) for i, name in enumerate(("train", "test"))}
    root = tmp_path_factory.mktemp("readiness") / "data"
    datasets.write_dataset(root, splits, ["a", "b"])
    return root


def test_recipes_are_resolved_without_tensorflow(data):
    code = (
        "import sys; from pipeline.format.manifest import open_dataset; from trainer.recipes.load import *\n"
        "from trainer.request import Request\n"
        f"data = open_dataset({str(data)!r})\n"
        "for name in recipe_names(): resolve(Request(data='', recipe=name, backbone=None, weights='none', settings=(),"
        " seed=0), data)\n"
        "print(sorted({'tensorflow', 'keras', 'jax', 'apache_beam'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Flags of trainer.main besides --data and --workdir; the exit code; what the line says.
WRONG = {
    "recipe": (["--recipe=phots"], 64, 'no such recipe; there are .* Did you mean "photos"?'),
    "backbone": (["--backbone=efficientnet_lite9"], 64, 'no backbone "efficientnet_lite9".* Did you mean'),
    "setting": (["--set=phases.1.lr_mx=1"], 64, 'no setting "phases.1.lr_mx". Did you mean "lr_max"?'),
    "value": (["--set=batch_size=many"], 64, "batch_size is of type int, got 'many'"),
    "schedule": (["--set=phases.1.duration=1st", "--set=phases.1.warmup=5st"], 64, "but the phase has 1"),
    "no weights file": (["--weights=/no/such.h5"], 64, "weights=/no/such.h5: no such file"),
    "weights' name": (["--weights=imagnet"], 64, 'Did you mean "imagenet"?'),
    "weights at home": (["--weights=~/no.h5"], 64, "weights=/home/me/no.h5: no such file"),
    "weights set at home": (["--set=weights=~/no.h5"], 64, "weights=/home/me/no.h5: no such file"),
    "a folder as weights": (["--weights=/tmp"], 64, "weights=/tmp: a folder"),
    "weights that nobody has": (["--backbone=cifar10_cnn"], 64, "cifar10_cnn has no ImageNet weights"),
    "weights to be fetched": (["--backbone=resnet34"], 64, "--weights=resnet34-b627a593.pth"),
    "image size": (["--set=image_size=16"], 64, "efficientnet_lite0 wants images of 32 pixels or more, got 16×16"),
    "recipe's file": (["--recipe=~/run/config.json"], 64, "--recipe=/home/me/run/config.json: not the config.json"),
    "cache": (["--cache=device", "--set=augment.rotation=5"], 64, "--cache=device: rotation=5 cannot be done"),
    "strategy": (["--strategy=multiworker"], 64, "needs the environment variable TF_CONFIG"),
    "chips": (["--strategy=tpu"], 64, "no TPU on this machine"),
    "tpu": (["--tpu=local"], 64, "no TPU on this machine"),
    "start": (["--init=~/run"], 64, "init=/home/me/run: no model.keras and labels.txt there"),
    "extension": (["--extend=5"], 64, "--extend=5: "),
    "selection": (["--set=selection_metric=f1"], 64, "selection_metric must be one of accuracy, balanced_accuracy, "),
    "contradiction": (["--tpu=local", "--strategy=cpu"], 64, "contradict each other"),
    "own recipe": (["--recipe=./no_such.py"], 64, r"no_such\.py cannot be read \(No such file"),
    "own recipe by its name": (["--recipe=setup"], 64, "Did you mean --recipe=./setup.py?"),
    "own backbone": (["--backbone=no_such:net"], 64, 'no module "no_such", neither in '),
    "own backbone's file": (["--backbone=~/no.py:net"], 64, r"/home/me/no\.py cannot be read"),
    "own backbone's name": (["--backbone=examples/own_code.py:smal_cnn"], 64, 'Did you mean "small_cnn"?'),
    "own backbone's weights": (["--backbone=examples/own_code.py:small_cnn", "--weights=imagenet"], 64, "is your own"),
    "own policy": (["--set=augment.policy=examples/own_code.py:lights"], 64, 'Did you mean "lights_out"?'),
    "policy": (["--set=augment.policy=randaug"], 64, 'no policy "randaug"; .* Did you mean "randaugment"?'),
    "own policy on the device": (
        ["--set=augment.policy=examples/own_code.py:lights_out", "--set=augment.on_accelerator=true"],
        64,
        "on_accelerator cannot be combined with policy=.*, which the host applies",
    ),
    "own policy in the cache": (
        ["--set=augment.policy=examples/own_code.py:lights_out", "--cache=device"],
        64,
        "--cache=device: policy=.* is applied to images on the host",
    ),
    "augmentation": (["--set=augment.cutout_count=1"], 64, "cutout_count and cutout_size are set together"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_flags_are_refused_before_tensorflow(data, tmp_path, case):
    flags, code, says = WRONG[case]
    found = run("trainer.main", f"--data={data}", f"--workdir={tmp_path}/run", *flags, HOME="/home/me")
    assert (found[0], found[2]) == (code, []), found
    assert re.search(says.replace("?", r"\?"), found[1]), found[1]
    assert found[1].startswith("error: ")
    assert not os.listdir(tmp_path)


def test_a_wrong_tf_config_is_refused_before_tensorflow(data, tmp_path):
    code, line, imported = run("trainer.main", f"--data={data}", f"--workdir={tmp_path}/run", TF_CONFIG="{")
    assert (code, imported) == (64, [])
    assert "TF_CONFIG={: " in line


def test_data_that_cannot_be_trained_on_are_refused_before_tensorflow(tmp_path):
    records = datasets.coloured_records(5, classes=1)
    datasets.write_dataset(tmp_path / "one", {"train": records}, ["only"])
    datasets.write_dataset(tmp_path / "none", {"test": records}, ["a", "b"])
    for name, says in (("one", "one label only (only)"), ("none", "no examples in split train")):
        code, line, imported = run("trainer.main", f"--data={tmp_path / name}", f"--workdir={tmp_path}/run")
        assert (code, imported) == (65, [])
        assert says in line


def _workdirs(folder, data):
    (folder / "file").touch()
    yield folder / "file", "is a file, not a folder"
    yield folder / "file" / "run", f"{folder}/file is a file, not a folder"
    yield pathlib.Path("/proc/run"), "nothing can be written in /proc"
    yield data, "it is a dataset; take a folder that is empty, or a new one"
    (folder / "export" / "saved_model").mkdir(parents=True)
    yield folder / "export", "it is an exported model; take"
    (folder / "photos" / "cats").mkdir(parents=True)
    (folder / "photos" / "cats" / "1.jpg").touch()
    yield folder / "photos", "it is a folder of images; take"
    (folder / "project").mkdir()
    (folder / "project" / "config.json").write_text('{"name": "mine"}')
    yield folder / "project", "config.json lies there, which would be lost; take a folder that is empty, or a new one"


def test_wrong_workdirs_are_refused_before_tensorflow(data, tmp_path):
    for workdir, says in _workdirs(tmp_path, data):
        code, line, imported = run("trainer.main", f"--data={data}", f"--workdir={workdir}")
        assert (code, imported) == (64, []), line
        assert says in line


@pytest.mark.slow
def test_another_run_in_the_workdir_is_refused_before_tensorflow(data, tmp_path):
    request = Request(data=str(data), recipe="quick", backbone=None, weights=None, settings=(), seed=0)
    opened = open_dataset(data)
    recipe = override(resolve(request, opened), ["batch_size=6"])  # as many as there are images
    (tmp_path / "checkpoints").mkdir()
    config = settings(request, opened, recipe, asked_batch_size=6, cores=0)
    (tmp_path / "config.json").write_text(json.dumps(config))
    flags = ["--recipe=quick", f"--data={data}", f"--workdir={tmp_path}"]
    code, line, imported = run("trainer.main", *flags, "--set=phases.1.lr_max=0.002", "--seed=3")
    assert (code, imported) == (64, [])
    assert "take another --run" in line
    # What the devices have a say in is left to them: so far all is well.
    code, line, imported = run("trainer.main", *flags, "--strategy=mirrored")
    assert "--strategy=mirrored: TensorFlow sees no GPU here" in line
    assert "tensorflow" in imported


OTHERS = {
    "fit_check, recipe": ("trainer.fit_check", ["--recipe=phots"], 'Did you mean "photos"'),
    "fit_check, phase": ("trainer.fit_check", ["--phase=uper"], 'Did you mean "upper"'),
    "fit_check, rates": ("trainer.fit_check", ["--rates=0.1,x"], "x is no learning rate"),
    "fit_check, weights": ("trainer.fit_check", ["--weights=/no.h5"], "no such file"),
    "fit_check, out": ("trainer.fit_check", ["--out=/proc/x"], "nothing can be written"),
    "preview, recipe": ("trainer.preview", ["--recipe=phots"], 'Did you mean "photos"'),
    "preview, split": ("trainer.preview", ["--recipe=photos", "--split=trai"], 'Did you mean "train"'),
    "preview, out": ("trainer.preview", ["--recipe=photos", "--out=x.mp4"], "no kind of image"),
    "preflight, recipe": ("trainer.preflight", ["--topology=v5e:2x4", "--recipe=phots"], 'Did you mean "photos"'),
    "preflight, setting": ("trainer.preflight", ["--topology=v5e:2x4", "--set=batchsize=1"], 'mean "batch_size"'),
    "preflight, own": (
        "trainer.preflight",
        ["--topology=v5e:2x4", "--backbone=examples/own_code.py:smal_cnn"],
        'Did you mean "small_cnn"',
    ),
    "preflight, topology": ("trainer.preflight", ["--topology=v5x:2x4"], "v5x"),
    "evaluate, split": ("trainer.evaluate", ["--model=.", "--output=x", "--split=tst"], 'Did you mean "test"'),
    "evaluate, model": ("trainer.evaluate", ["--model=.", "--output=x"], "no exported model there"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_commands_refuse_before_tensorflow(data, case):
    module, flags, says = OTHERS[case]
    code, line, imported = run(module, f"--data={data}", *flags)
    assert (code, imported) == (64, []), line
    assert says in line
    assert not (ROOT / "x").exists()


@pytest.mark.parametrize(
    ("module", "flags", "says"),
    [
        ("trainer.export", ["--run=DATA"], "no config.json there; it is a dataset; python -m trainer.main --data="),
        ("trainer.report", ["--run=DATA"], "no config.json there; it is a dataset; python -m trainer.main --data="),
        ("trainer.predict", ["--run=DATA", "x.jpg"], "no config.json there; it is a dataset; python -m trainer.main"),
        ("trainer.predict", ["--model=DATA", "x.jpg"], "no exported model there; it is a dataset; python -m trainer"),
        ("trainer.evaluate", ["--model=DATA", "--data=DATA", "--output=x"], "no exported model there; it is a dataset"),
        ("trainer.export", ["--run=/no/run"], "give the folder of a run of trainer.main"),
        ("pipeline.verify", ["/etc/passwd"], "not a dataset; it is no folder"),
    ],
)
def test_the_wrong_kind_of_folder_is_named(data, module, flags, says):
    code, line, imported = run(module, *(flag.replace("DATA", str(data)) for flag in flags))
    assert (code, imported) == (64, []), line
    assert says in line


@pytest.mark.parametrize("name", recipe_names())
def test_a_run_needs_room_for_its_weights_several_times(name):
    recipe = load_recipe(name, DataFacts(num_train=1000, num_classes=10, max_side=400))
    needs = disk_needs(recipe, num_classes=10)
    assert 10 << 20 < needs < 2 << 30
    averaged = override(recipe, ["ema_decay=0.9"])
    assert disk_needs(averaged, num_classes=10) >= needs
