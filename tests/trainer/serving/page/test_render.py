"""Tests that try.html holds all that it needs, takes nothing from elsewhere, and is made of any labels."""

import base64
import gzip
import hashlib
import json
import os
import subprocess
import sys

import html5lib
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from tests.trainer import runs
from trainer.models import HeadConfig
from trainer.models.classifier import build_classifier
from trainer.recipes.overrides import to_dict
from trainer.serving.export import export_classifier
from trainer.serving.page.render import render_page
from trainer.serving.page.runtime import Runtime

LABELS = ['</script><b id="label">', "\"quotes' & <!-- ", "Sonnenblume, groß", "شمس"]
RUNTIME = Runtime(litert=b"the module", loader=b"the loader", glue=b"the script", wasm=bytes(range(256)))
HTML = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    classifier = build_classifier(
        backbone="cifar10_cnn", weights="none", num_classes=4, height=16, width=20, head=HeadConfig(hidden=8), seed=0
    )
    folder = tmp_path_factory.mktemp("export") / "export"
    export_classifier(classifier, labels=LABELS, height=16, width=20, preprocess="unit", directory=folder)
    return folder


@pytest.fixture(scope="module")
def page(export):
    """Parses the page, strictly: element by element as a browser sees it."""
    text = render_page(export, title="<i>day's</i> photos", runtime=RUNTIME)
    return html5lib.HTMLParser(strict=True).parse(text)


def text_of(page, name):
    (element,) = page.iterfind(f".//*[@id='{name}']")
    return element.text


def unpacked(page, name):
    return gzip.decompress(base64.b64decode(text_of(page, name)))


def test_it_holds_the_labels_whatever_they_are(page):
    spec = {"height": 16, "width": 20, "resize": "stretch", "eval_centre": 0.0}
    assert json.loads(text_of(page, "facts")) == {"labels": LABELS, "spec": spec}
    assert page.find(".//*[@id='label']") is None
    assert page.find(f".//{HTML}h1").text == "Try <i>day's</i> photos"


def test_it_holds_what_runs_the_model(page):
    assert [unpacked(page, name) for name in ("litert", "glue", "wasm")] == [
        RUNTIME.litert,
        RUNTIME.glue,
        RUNTIME.wasm,
    ]
    imports = json.loads(page.find(f".//{HTML}script[@type='importmap']").text)["imports"]
    address, _, loader = imports["@litertjs/wasm-utils"].partition(",")
    assert (address, base64.b64decode(loader)) == ("data:text/javascript;base64", RUNTIME.loader)


def test_it_holds_the_model_for_one_image(page, export):
    image = np.random.default_rng(0).uniform(0, 255, (1, 16, 20, 3)).astype(np.float32)
    found, expected = (
        Interpreter(model_content=content).get_signature_runner()(image=image)["probabilities"]
        for content in (unpacked(page, "model"), (export / "model.tflite").read_bytes())
    )
    np.testing.assert_array_equal(found, expected)
    for tensor in Interpreter(model_content=unpacked(page, "model")).get_tensor_details():
        assert -1 not in tensor["shape_signature"]


def test_integers_are_taken_where_floats_are_too_large(export, monkeypatch):
    floats = (export / "model.tflite").read_bytes()
    (export / "model_int8.tflite").write_bytes(floats)  # stands in: which file is taken is the question
    try:
        for largest, name in ((len(floats), "model.tflite"), (len(floats) - 1, "model_int8.tflite")):
            monkeypatch.setattr("trainer.serving.page.render._LARGEST_FLOAT", largest)
            text = render_page(export, title="t", runtime=RUNTIME)
            assert f"<p>{name}, " in text
    finally:
        (export / "model_int8.tflite").unlink()


def test_nothing_but_what_it_holds_is_allowed(page):
    (policy,) = (meta for meta in page.iter(f"{HTML}meta") if meta.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.get("content").split("; "))
    assert rules["default-src"] == "'none'"

    def digest(element):
        return f"'sha256-{base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()}'"

    scripts = [one for one in page.iter(f"{HTML}script") if one.get("type") in (None, "importmap")]
    assert len(scripts) == 5
    own = {digest(script) for script in scripts}
    assert set(rules["script-src"].split()) == {*own, "'wasm-unsafe-eval'", "blob:", "data:"}
    assert rules["style-src"] == digest(page.find(f".//{HTML}style"))
    addresses = [one.get(name) for one in page.iter() for name in ("src", "href", "srcset", "action") if one.get(name)]
    assert addresses == ["data:,"]
    assert not [name for one in page.iter() for name in one.attrib if name.startswith("on") or name == "style"]


@pytest.mark.slow
def test_without_the_runtime_all_else_is_exported_and_one_line_says_how_to_get_it(tiny_data, tmp_path):
    recipe = runs.small_recipe("phases.0.duration=1ep", "phases.1.duration=1ep")
    runs.train(tiny_data, recipe, tmp_path / "run")
    settings = {"recipe": to_dict(recipe), "labels": list(tiny_data.manifest.labels), "seed": 0}
    (tmp_path / "run/config.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "trainer.export", "--unfinished", f"--run={tmp_path / 'run'}", "--formats=page"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("try.html"))
    assert line.startswith(f"try.html is not written: LiteRT.js is not in {tmp_path / 'cache'}")
    assert line.endswith("`make page-runtime` (python -m trainer.serving.page) fetches it, once")
    made = {path.name for path in (tmp_path / "run/export").iterdir()}
    assert {"saved_model", "model.keras", "model.tflite"} <= made
    assert "try.html" not in made
