"""Executes the notebooks from the first cell to the last."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests import datasets
from tests.trainer.runs import SMALL

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "photos_to_classifier.ipynb"


@pytest.fixture
def photos(tmp_path):
    """Writes digits 0, 1 and 2, 60 of each, as a folder of one folder a class."""
    digits = load_digits()
    for label in range(3):
        folder = tmp_path / "photos" / f"digit {label}"
        folder.mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:60]):
            pixels = Image.fromarray((image * 15.9).astype(np.uint8))
            pixels.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=95)
    return tmp_path / "photos"


@pytest.mark.slow
def test_from_photos_to_predictions(photos, tmp_path):
    papermill = pytest.importorskip("papermill", reason="needs the extra [notebook]")
    pytest.importorskip("ipykernel", reason="needs the extra [notebook]")
    settings = {
        "PHOTOS": str(photos),
        "WORK": str(tmp_path / "work"),
        "RECIPE": "quick",
        "SETTINGS": {"phases.1.duration": "1ep", "phases.1.warmup": "0st", "phases.1.flat": "0st"},
        "INSTALL": False,
    }
    executed = papermill.execute_notebook(
        NOTEBOOK,
        tmp_path / "executed.ipynb",
        parameters=settings,
        kernel_name="python3",
        cwd=ROOT,
    )
    outputs = json.dumps(executed)
    assert "image/png" in outputs, "the preview is shown"
    result = json.loads((tmp_path / "work" / "run-quick" / "result.json").read_text())
    accuracy = result["splits"]["test"]["accuracy"]
    assert f"test: accuracy {accuracy:.4f}" in outputs
    assert accuracy > 0.5  # of three classes; the recipe is cut short here
    assert "0.jpg: digit 0 (" in outputs
    assert outputs.count("<iframe srcdoc=") == 3  # of dataset, check and run


@pytest.mark.slow
def test_a_kernel_that_is_interrupted_goes_on(tmp_path):
    """As Jupyter's stop button does it: training ends with its state saved, and the next call ends the run."""
    jupyter_client = pytest.importorskip("jupyter_client", reason="needs the extra [notebook]")
    pytest.importorskip("ipykernel", reason="needs the extra [notebook]")
    records = {name: datasets.coloured_records(n, classes=3, seed=n) for name, n in {"train": 37, "test": 13}.items()}
    data = datasets.write_dataset(tmp_path / "data", records, ["red", "green", "blue"])
    settings = dict(setting.split("=") for setting in SMALL)
    call = (
        f"from trainer.api import train; run = train({data.path!r}, {str(tmp_path / 'run')!r}, recipe='quick',"
        f" settings={settings})"
    )
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3", cwd=str(ROOT))

    def interrupt(message):
        text = message["content"].get("text", "")
        if " head 1/2 loss " in text and not said:
            said.append(text)
            manager.interrupt_kernel()

    said = []
    try:
        client.allow_stdin = False
        reply = client.execute_interactive(call, output_hook=interrupt, timeout=300)["content"]
        assert (reply["status"], reply.get("ename")) == ("error", "KeyboardInterrupt"), reply
        assert not (tmp_path / "run" / "_SUCCESS").exists()
        shown = []
        reply = client.execute_interactive(
            f"{call}\nprint(run.metrics['test']['examples'])",
            output_hook=lambda message: shown.append(message["content"].get("text", "")),
            timeout=300,
        )["content"]
        assert reply["status"] == "ok", reply
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(shown).endswith("\n13\n")
    assert " head 1/2 loss " not in "".join(shown)  # it went on behind it


def test_it_is_committed_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
