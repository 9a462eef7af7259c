"""Runs examples/from_python.py, and code of one's own that is named by its module, from Python and by the command."""

import json
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests import datasets
from tests.trainer.commands import ROOT, assert_same_end, best_weights

pytestmark = pytest.mark.slow


def python(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_builds_checks_trains_and_asks(tmp_path):
    digits = load_digits()
    for number in range(180):
        folder = tmp_path / "photos" / f"digit {digits.target[number] % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray((digits.images[number] * 15.9).astype(np.uint8)).resize((64, 64))
        pixels.save(folder / f"{number}.jpg", quality=95)
    for _ in range(2):  # what is done is not done twice
        said = python(ROOT / "examples" / "from_python.py", tmp_path / "photos", tmp_path / "work", cwd=ROOT)
        result = json.loads((tmp_path / "work" / "run" / "result.json").read_text())
        assert f"{result['splits']['test']['accuracy']} {tmp_path / 'work' / 'run' / 'report.html'}" in said
        assert f"{tmp_path}/photos/digit 0/0.jpg digit 0 " in said
        config = json.loads((tmp_path / "work" / "small" / "config.json").read_text())
        assert sorted(config["own_code"]) == ["backbone", "policy"]
        assert said.splitlines()[-1].startswith("Answer(name='0', label='digit ")
    assert said.count("nothing to do: ") == 4


OWN = """
import keras, tensorflow as tf
def make(images, *, image_size=16, preprocess="unit"):
    return keras.layers.Conv2D(8, 3, strides=4, activation="relu")(images)
def shade(image, seed):
    return image * tf.random.stateless_uniform([], seed, minval=0.5)
"""


def test_code_of_one_s_own_is_named_by_its_module(tmp_path):
    """By the command and from Python, which reads it anew after it was edited."""
    records = {name: datasets.coloured_records(n, classes=3, seed=n) for name, n in {"train": 37, "test": 13}.items()}
    data = datasets.write_dataset(tmp_path / "data", records, ["red", "green", "blue"])
    (tmp_path / "my_module.py").write_text(OWN)
    settings = {"augment.policy": "my_module:shade", "batch_size": 8, "phases.0.duration": "2ep", "head.hidden": 8,
                "image_size": 16}  # fmt: skip
    flags = [f"--data={data.path}", "--recipe=cifar10_cnn", "--backbone=my_module:make"]
    flags += [f"--set={name}={value}" for name, value in settings.items()]
    python("-m", "trainer.main", *flags, "--workdir=command", cwd=tmp_path)
    code = f"""
        import pathlib
        import my_module
        from trainer.api import train
        def run(name):
            train({str(data.path)!r}, name, recipe="cifar10_cnn", backbone="my_module:make", settings={settings!r})
        run("api")
        file = pathlib.Path("my_module.py")
        file.write_text(file.read_text().replace("Conv2D(8", "Conv2D(24"))
        run("edited")
    """
    python("-c", textwrap.dedent(code), cwd=tmp_path)
    assert_same_end(tmp_path / "api", tmp_path / "command")
    kernels = [best_weights(tmp_path / run) for run in ("api", "edited")]
    assert [{v.shape[-1] for v in of.values() if v.ndim == 4} for of in kernels] == [{8}, {24}]
    assert "Conv2D(24" in (tmp_path / "edited" / "own_code" / "backbone.py").read_text()
    assert pathlib.Path(tmp_path / "api" / "own_code" / "backbone.py").read_text() == OWN
