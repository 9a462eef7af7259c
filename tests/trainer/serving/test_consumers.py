"""Tests that an export is answered alike by what others install: each consumer in a clean environment of its own.

What they download is kept under ~/.cache/tpu-retraining/consumers.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from pipeline.images.model_pixels import pixels
from pipeline.predictions import Predictions
from tests import datasets
from trainer.models import HeadConfig
from trainer.models.classifier import build_classifier
from trainer.serving.export import export_classifier
from trainer.serving.forms import TOLERANCE
from trainer.serving.golden import choose_golden
from trainer.serving.to_onnx import to_onnx

pytestmark = pytest.mark.slow

LABELS = ["ant", "bee", "cat"]
SIZE = {"height": 32, "width": 40}
ORT_WEB, TF_JAVA = "1.30.0", "1.1.0"

PLAIN_TENSORFLOW = """
import json, sys
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
for file in sys.argv[2:]:
    with open(file, "rb") as image:
        print(json.dumps(serve(image_bytes=tf.constant([image.read()]))["probabilities"].numpy()[0].tolist()))
"""

NODE = """
import fs from "node:fs";
import * as ort from "onnxruntime-web";
const [, , model, height, width, ...files] = process.argv;
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(fs.readFileSync(model), { executionProviders: ["wasm"] });
for (const file of files) {
  const pixels = new Float32Array(new Uint8Array(fs.readFileSync(file)).buffer);
  const image = new ort.Tensor("float32", pixels, [1, Number(height), Number(width), 3]);
  const { probabilities } = await session.run({ image });
  console.log(JSON.stringify([...probabilities.data]));
}
"""

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>test</groupId><artifactId>test</artifactId><version>1</version>
<dependencies><dependency>
<groupId>org.tensorflow</groupId><artifactId>tensorflow-core-platform</artifactId><version>{TF_JAVA}</version>
</dependency></dependencies></project>
"""

JAVA = """
import java.nio.file.*;
import java.util.*;
import org.tensorflow.*;
import org.tensorflow.ndarray.*;
import org.tensorflow.types.*;

public class Ask {
  public static void main(String[] arguments) throws Exception {
    try (SavedModelBundle model = SavedModelBundle.load(arguments[0], "serve")) {
      for (String file : Arrays.copyOfRange(arguments, 1, arguments.length)) {
        NdArray<byte[]> encoded = NdArrays.vectorOfObjects(Files.readAllBytes(Path.of(file)));
        try (TString images = TString.tensorOfBytes(encoded);
            Result result = model.function("serving_default").call(Map.of("image_bytes", images))) {
          TFloat32 found = (TFloat32) result.get("probabilities").get();
          List<Float> row = new ArrayList<>();
          for (long at = 0; at < found.shape().size(1); at++) row.add(found.getFloat(0, at));
          System.out.println(row);
        }
      }
    }
  }
}
"""


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Exports a model in every form, with golden images."""
    random = np.random.default_rng(0)
    records = [
        datasets.record(datasets.jpeg(datasets.smooth_image(random, height=90 + n, width=70)), n % 3) for n in range(9)
    ]
    data = datasets.write_dataset(tmp_path_factory.mktemp("data"), {"test": records}, LABELS)
    ids, labels = zip(*[(record.id, record.label) for record in data.read("test")], strict=True)
    sure = np.where(np.arange(3) == np.array(labels)[:, None], 0.8, 0.1)
    answers = Predictions(ids=list(ids), labels=np.array(labels), names=LABELS, log_probabilities=np.log(sure))
    classifier = build_classifier(
        backbone="cifar10_cnn", weights="none", num_classes=3, head=HeadConfig(hidden=16), seed=0, **SIZE
    )
    folder = tmp_path_factory.mktemp("export") / "export"
    export_classifier(
        classifier, labels=LABELS, preprocess="unit", directory=folder, golden=choose_golden(answers, data, "test"),
        **SIZE,
    )  # fmt: skip
    (folder / "model.onnx").write_bytes(to_onnx(keras.models.load_model(folder / "model.keras", compile=False), {}))
    return folder


@pytest.fixture(scope="module")
def golden(export):
    """Lists (file, expected probabilities)."""
    rows = json.loads((export / "golden" / "golden.json").read_text())
    assert len(rows) == 9
    return [(export / "golden" / row["file"], row["probabilities"]) for row in rows]


@pytest.fixture(scope="module")
def downloads():
    """Names the folder where downloads are kept from one run of the tests to the next."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = root / "tpu-retraining" / "consumers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def needs(*programs):
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"no {' and no '.join(missing)} on the PATH")


def installed(folder, command, **options):
    """Runs what installs something into a folder, once; the test is skipped where it fails, for want of a network."""
    done = folder / "done"
    if not done.exists():
        ran = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        if ran.returncode:
            last = ((ran.stderr or ran.stdout).strip().splitlines() or ["?"])[-1]
            pytest.skip(f"{' '.join(map(str, command[:3]))} … fails: {last[:200]}")
        done.touch()


def clean_python(downloads, name, *packages):
    """Makes an environment that has these packages and what they need, and nothing of ours."""
    folder = downloads / f"{name}-3.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    installed(folder, [python, "-m", "pip", "install", "--quiet", *packages])
    return python


def answers_of(command, golden, **options):
    """Runs a consumer outside of the checkout; returns its lines of JSON."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    clean |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=clean, **{"cwd": "/", **options}
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", "{"))]
    assert len(found) == len(golden)
    return found


def check(found, golden):
    np.testing.assert_allclose(found, [expected for _, expected in golden], atol=TOLERANCE)
    assert np.ptp(found, axis=0).max() > 10 * TOLERANCE, "the images are told apart"


@pytest.mark.parametrize(
    ("form", "packages"),
    [("model.tflite", ("ai-edge-litert", "pillow")), ("model.onnx", ("onnxruntime", "pillow"))],
)
def test_a_clean_environment_asks_a_form(export, golden, downloads, form, packages):
    python = clean_python(downloads, packages[0], *packages)
    found = answers_of([python, export / "ask.py", form, *(file for file, _ in golden)], golden)
    check([row["probabilities"] for row in found], golden)


def test_plain_tensorflow_loads_the_saved_model(export, golden, downloads):
    python = clean_python(downloads, "tensorflow-cpu", "tensorflow-cpu")
    command = [python, "-c", PLAIN_TENSORFLOW, export / "saved_model", *(file for file, _ in golden)]
    check(answers_of(command, golden), golden)


@needs("node", "npm")
def test_onnxruntime_web_answers_under_node(export, golden, downloads, tmp_path):
    folder = downloads / f"onnxruntime-web-{ORT_WEB}"
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text("{}")
    installed(folder, ["npm", "install", "--no-audit", "--no-fund", f"onnxruntime-web@{ORT_WEB}"], cwd=folder)
    (folder / "ask.mjs").write_text(NODE)
    spec = json.loads((export / "preprocess.json").read_text())
    files = []
    for file, _ in golden:
        files.append(tmp_path / f"{file.stem}.f32")
        files[-1].write_bytes(pixels(file.read_bytes(), spec).tobytes())
    command = ["node", folder / "ask.mjs", export / "model.onnx", spec["height"], spec["width"], *files]
    check(answers_of(command, golden), golden)


@needs("java", "mvn")
def test_java_loads_the_saved_model(export, golden, downloads):
    folder = downloads / f"tensorflow-java-{TF_JAVA}"
    folder.mkdir(exist_ok=True)
    (folder / "pom.xml").write_text(POM)
    (folder / "Ask.java").write_text(JAVA)
    maven = ["mvn", "--quiet", "--batch-mode", f"-Dmaven.repo.local={folder / 'repository'}"]
    installed(folder, [*maven, "dependency:build-classpath", "-Dmdep.outputFile=classpath"], cwd=folder)
    classpath = (folder / "classpath").read_text()
    command = ["java", "-cp", classpath, folder / "Ask.java", export / "saved_model", *(file for file, _ in golden)]
    check(answers_of(command, golden, cwd=folder), golden)
