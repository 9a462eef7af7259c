"""Tests how runs are evaluated and compared by their predictions, as commands."""

import html.parser
import json
import shutil

import html5lib
import numpy as np
import pytest

from pipeline.predictions import Predictions, predictions_file
from tests import datasets
from tests.trainer.commands import run
from trainer.report.measures import measure

LABELS = ["rose <red>", "日本の花"]


def _predictions(records, *, seed):
    """Makes answers to records, four in five of them right."""
    random = np.random.default_rng(seed)
    labels = np.array([record.label for record in records])
    logits = random.normal(size=(len(records), 2)) + 1.2 * np.eye(2)[labels]
    return Predictions(
        ids=[record.id for record in records],
        labels=labels,
        names=LABELS,
        log_probabilities=(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32),
        temperature=1.5,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Writes a dataset, and two folders that hold what a finished run holds of its predictions."""
    folder = tmp_path_factory.mktemp("runs")
    splits = {name: datasets.coloured_records(60, classes=2, seed=n) for n, name in enumerate(("validation", "test"))}
    data = datasets.write_dataset(folder / "data", splits, LABELS)
    for number, name in enumerate(("one", "other")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"data": str(folder / "data")}))
        (folder / name / "result.json").write_text(json.dumps({"version": data.manifest.version}))
        for split, records in splits.items():
            content = _predictions(records, seed=2 * number + len(split)).to_bytes()
            (folder / name / f"predictions-{split}.npz").write_bytes(content)
    return folder


def test_a_run_is_evaluated_from_its_files(runs, tmp_path):
    output = tmp_path / "figures.json"
    done = run(f"--run={runs / 'one'}", f"--output={output}", module="trainer.evaluate")
    assert done.returncode == 0, done.stderr
    splits = {name: datasets.coloured_records(60, classes=2, seed=n) for n, name in enumerate(("validation", "test"))}
    expected = measure(
        _predictions(splits["test"], seed=4), validation=_predictions(splits["validation"], seed=len("validation"))
    )
    figures = json.loads(output.read_text())
    assert figures["accuracy"] == expected.accuracy
    assert figures["coverage"]["threshold"] == expected.coverage.threshold
    assert (figures["temperature"], figures["slices"]) == (1.5, [])
    lines = done.stdout.splitlines()
    assert lines[0] == "test: 60 images of 2 labels"
    assert lines[1].split()[:2] == ["accuracy", f"{expected.accuracy:.4f}"]
    assert any(line.startswith("  日本の花") for line in lines)


def test_runs_are_compared_on_a_page(runs, tmp_path):
    page = tmp_path / "page.html"
    done = run(runs / "one", runs / "other", f"--output={page}", module="trainer.compare")
    assert done.returncode == 0, done.stderr
    verdict, where, _ = done.stdout.splitlines()
    assert verdict.startswith(("No difference is proven. one has ", "one is better. one has ", "other is better. one"))
    assert where == f"page: {page}"
    text = page.read_text(encoding="utf-8")
    html5lib.HTMLParser(strict=True).parse(text)
    parser = html.parser.HTMLParser()
    sources = []
    parser.handle_starttag = lambda tag, attributes: sources.append(dict(attributes).get("src")) if tag == "img" else 0
    parser.feed(text)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "rose &lt;red&gt;" in text
    assert "<script" not in text
    assert "A is one, B is other; 60 images of test" in text


def test_without_the_dataset_the_page_has_no_pictures(runs, tmp_path):
    page = tmp_path / "page.html"
    (tmp_path / "moved").mkdir()
    for name in ("config.json", "result.json", "predictions-test.npz"):
        (tmp_path / "moved" / name).write_bytes((runs / "one" / name).read_bytes())
    (tmp_path / "moved" / "config.json").write_text('{"data": "/nowhere"}')
    done = run(tmp_path / "moved", runs / "other", f"--output={page}", module="trainer.compare")
    assert done.returncode == 0, done.stderr
    assert "not in this dataset version" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        ("trainer.evaluate", [], "give either --run=RUN or --model=RUN/export"),
        ("trainer.evaluate", ["--run=x", "--model=y"], "give either --run=RUN or --model=RUN/export"),
        ("trainer.evaluate", ["--model=y"], "--model=y needs --data"),
        ("trainer.evaluate", ["--run=/nowhere"], "predictions-test.npz: no such file; "),
        ("trainer.compare", ["one"], "got 1 runs to compare; two are wanted"),
        ("trainer.compare", ["/nowhere", "/nowhere"], "predictions-test.npz: no such file; "),
    ],
)
def test_what_is_missing_is_one_line(module, flags, message):
    done = run(*flags, module=module)
    assert done.returncode == 64
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unfinished_run_and_another_split_are_told(runs, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    done = run(f"--run={tmp_path}", module="trainer.evaluate")
    assert "is no finished run, or one of an earlier version" in done.stderr
    done = run(f"--run={runs / 'one'}", "--split=train", module="trainer.evaluate")
    assert done.stderr.rstrip().endswith("the run has predictions on test and validation")
    assert predictions_file(runs, "train").endswith("predictions-train.npz")


def test_files_of_answers_are_compared_as_runs_are(runs, tmp_path):
    files = [shutil.copy(runs / name / "predictions-test.npz", tmp_path / f"{name}.npz") for name in ("one", "other")]
    page = tmp_path / "page.html"
    done = run(*files, f"--data={runs / 'data'}", f"--output={page}", module="trainer.compare")
    assert done.returncode == 0, done.stderr
    of_runs = run(runs / "one", runs / "other", f"--output={tmp_path / 'runs.html'}", module="trainer.compare")
    assert done.stdout.splitlines()[0].replace(".npz", "") == of_runs.stdout.splitlines()[0]
    assert "data:image/" in page.read_text(encoding="utf-8")
    missing = run(tmp_path / "none.npz", files[0], module="trainer.compare")
    assert missing.stderr == f"error: {tmp_path / 'none.npz'}: no such file\n"
