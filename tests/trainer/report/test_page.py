import base64
import dataclasses
import html.parser
import io
import json
import pathlib
import subprocess
import sys
from xml.etree import ElementTree

import html5lib
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from sklearn import metrics

from pipeline.command import DataError, UsageError
from pipeline.pages.environment import percent
from pipeline.pages.pictures import data_uri
from pipeline.predictions import Predictions
from tests import datasets
from trainer.report import charts
from trainer.report.page import flatten, write_report
from trainer.train.evaluation import Metrics

ROWS = [
    {"step": 10 * e, "epoch": e, "phase": phase, "split": split, "loss": 1 / e, "accuracy": 1 - 0.5 / e}
    | ({"learning_rate": 0.01 * e} if split == "train" else {})
    for e, phase in ((1, "head"), (2, "head"), (3, "all"), (4, "all"))
    for split in ("train", "validation")
]


@dataclasses.dataclass
class Run:
    path: pathlib.Path
    data: object
    records: list
    predictions: list


def make_run(
    folder,
    labels,
    *,
    count=60,
    accuracy=0.8,
    splits=("validation", "test"),
    selection="best",
    records=None,
    written=("train", "validation", "test"),
):
    """Writes a run directory as trainer.main leaves it, with random predictions on random images."""
    rng = np.random.default_rng(0)
    records = records or datasets.random_records(count, classes=len(labels))
    data = datasets.write_dataset(folder / "data", dict.fromkeys(written, records), labels, name="photos")
    run = pathlib.Path(folder / "run")
    run.mkdir()
    truth = np.array([r.label for r in records])
    predicted = np.where(rng.random(len(truth)) < accuracy, truth, rng.integers(0, len(labels), len(truth)))
    predictions = [
        {"id": r.id, "label": labels[t], "predicted": labels[p], "probability": float(rng.uniform(0.55, 1))}
        for r, t, p in zip(records, truth, predicted, strict=True)
    ]
    values = {
        "examples": len(truth),
        "loss": 0.4321,
        "accuracy": float((truth == predicted).mean()),
        "per_class": [],
        "confusion": metrics.confusion_matrix(truth, predicted, labels=range(len(labels))).tolist(),
    }
    result = {
        "dataset": "photos",
        "version": "1.0.0",
        "recipe": "quick",
        "backbone": "cifar10_cnn",
        "labels": labels,
        "splits": dict.fromkeys(splits, values),
        "best": {"phase": "all", "epoch": 3, "step": 30, "validation_accuracy": 0.75, "validation_loss": 0.3333}
        if splits
        else None,
        "steps": 40,
        "diagnosis": "over-fitting; more data would help",
    }
    recipe = {"name": "quick", "selection": selection, "phases": [{"name": "head", "trainable": [["head/.*", 1.0]]}]}
    provenance = {
        "dataset": {"name": "photos", "version": "1.0.0", "fingerprint": data.manifest.source_fingerprint},
        "git_commit": None,
        "packages": {"keras": "3.15.1"},
        "seed": 7,
        "devices": ["/device:CPU:0"],
        "started": "2026-01-02T10:00:00+00:00",
        "finished": "2026-01-02T11:30:00Z",
    }
    for name, content in (
        ("result.json", result),
        ("provenance.json", provenance),
        ("config.json", {"data": str(folder / "data"), "seed": 7, "recipe": recipe}),
    ):
        (run / name).write_text(json.dumps(content))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for split in splits:
        write_predictions(run, split, predictions, labels)
    return Run(run, data, records, predictions)


def write_predictions(run, split, predictions, labels):
    """Writes what the run keeps of predictions; the other labels share what the answer leaves of the probability."""
    probabilities = np.zeros((len(predictions), len(labels)))
    for row, prediction in zip(probabilities, predictions, strict=True):
        row[:] = (1 - prediction["probability"]) / (len(labels) - 1)
        row[labels.index(prediction["predicted"])] = prediction["probability"]
    found = Predictions(
        ids=[prediction["id"] for prediction in predictions],
        labels=np.array([labels.index(prediction["label"]) for prediction in predictions]),
        names=labels,
        log_probabilities=np.log(probabilities).astype(np.float32),
    )
    (run / f"predictions-{split}.npz").write_bytes(found.to_bytes())


class Page(html.parser.HTMLParser):
    """Collects what a browser would load and show."""

    VOID = ("meta", "img", "rect", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.images, self.tags, self.text, self.open, self.outside = [], set(), "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "src":
                self.images.append(value)
            if key in ("src", "href", "srcset", "xlink:href") and value and not value.startswith(("data:", "#")):
                self.outside.append(value)

    def handle_endtag(self, tag):
        self.text += " " if tag in ("td", "th", "li", "p", "h2", "span", "b") else ""
        if tag not in self.VOID:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style",):
            self.text += data


def read_page(run):
    return Page((run.path / "report.html").read_text())


def squeeze(text):
    """Replaces any white space by one space, the unbreakable ones before % too."""
    return " ".join(text.split())


def test_the_page_shows_the_figures_and_loads_nothing(tmp_path):
    run = make_run(tmp_path, ["cat", "dog", "owl"])
    write_report(run.path, run.data)
    page = read_page(run)
    assert page.outside == []
    assert "script" not in page.tags
    assert page.open == []  # every element is closed
    text = squeeze(page.text)
    truth, predicted = [p["label"] for p in run.predictions], [p["predicted"] for p in run.predictions]
    shown = f"{100 * metrics.accuracy_score(truth, predicted):.1f}\u00a0%"
    assert shown in page.text
    cells = text.replace(" %", "%").split()
    for label, recall, precision, f1 in zip(
        ("cat", "dog", "owl"),
        metrics.recall_score(truth, predicted, average=None),
        metrics.precision_score(truth, predicted, average=None),
        metrics.f1_score(truth, predicted, average=None),
        strict=True,
    ):
        row = next(cells[i : i + 11] for i in range(len(cells)) if cells[i : i + 2] == [label, "20"])
        assert row[2] == f"{100 * recall:.1f}%"
        assert (row[6], row[10]) == (f"{100 * precision:.1f}%", f"{100 * f1:.1f}%")
    for expected in (
        f"{shown.replace(chr(160), ' ')} of 60 test images right",
        "Over-fitting; more data would help.",
        "kept: all, epoch 3",
        "90 min",
        "not run from a git checkout",
    ):
        assert expected in text


def test_the_galleries_show_the_worst_mistakes_and_the_least_sure_answers_with_their_own_images(tmp_path):
    solid = [
        datasets.record(datasets.jpeg(np.full((40, 300, 3), 4 * i, np.uint8), quality=95), i % 2, name=str(i))
        for i in range(60)
    ]
    run = make_run(tmp_path, ["dark", "light"], records=solid)
    write_report(run.path, run.data)
    wrong = sorted((p for p in run.predictions if p["label"] != p["predicted"]), key=lambda p: -p["probability"])
    other = sorted((p for p in run.predictions if p["label"] == p["predicted"]), key=lambda p: p["probability"])
    page = (run.path / "report.html").read_text()
    for section, chosen in (("mistakes", wrong[:24]), ("unsure", other[:12])):
        expected = [r.id for p in chosen for r in solid if r.id == p["id"]]
        images = Page(page[page.index(f'<section id="{section}">') :].split("</section>")[0] + "</section>").images
        assert len(images) == len(expected)
        for uri, identity in zip(images, expected, strict=True):
            with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
                brightness, size = np.asarray(image).mean(), image.size
            assert size == (168, 22)
            assert abs(brightness - 4 * next(i for i, r in enumerate(solid) if r.id == identity)) < 2


def test_tiny_images_stay_lossless():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    encoded = datasets.jpeg(pixels)
    uri = data_uri(encoded)
    assert uri.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as small, Image.open(io.BytesIO(encoded)) as full:
        np.testing.assert_array_equal(np.asarray(small), np.asarray(full))


def test_a_matrix_of_many_labels_is_read_back_from_what_is_not_zero(tmp_path):
    labels = [f"label {i}" for i in range(150)]
    run = make_run(tmp_path, labels, count=600)
    write_report(run.path, run.data)
    whole = (run.path / "report.html").read_text()
    result = json.loads((run.path / "result.json").read_text())
    matrix = np.array(result["splits"]["test"]["confusion"])
    found = Metrics(examples=600, loss=0.4321, confusion=matrix).to_dict(labels)
    assert "confusion" not in found
    assert len(found["confused"]) == np.count_nonzero(matrix)
    result["splits"]["test"] = found
    (run.path / "result.json").write_text(json.dumps(result))
    write_report(run.path, run.data)
    assert (run.path / "report.html").read_text() == whole


@pytest.mark.parametrize(("count", "numbers", "names"), [(2, True, True), (30, False, True), (100, False, False)])
def test_confusions_are_readable_at_any_number_of_labels(tmp_path, count, numbers, names):
    labels = [f"label {i}" for i in range(count)]
    run = make_run(tmp_path, labels, count=4 * count)
    write_report(run.path, run.data)
    page = (run.path / "report.html").read_text()
    matrix = ElementTree.fromstring(page[page.index("<svg viewBox") :].split("</svg>")[0] + "</svg>")
    texts = [element.text for element in matrix.iter("text")]
    confusion = np.array(json.loads((run.path / "result.json").read_text())["splits"]["test"]["confusion"])
    assert len(matrix.findall("g")) == np.count_nonzero(confusion)
    assert (texts.count("label 1") == 2) is names
    assert (str(confusion[0, 0]) in texts) is numbers
    counts = [int(g.find("title").text.split(": ")[1].split()[0]) for g in matrix.findall("g")]
    assert counts == confusion[np.nonzero(confusion)].tolist()


def test_above_the_limit_there_is_no_matrix(tmp_path):
    run = make_run(tmp_path, [str(i) for i in range(130)], count=260)
    write_report(run.path, run.data)
    assert "<svg viewBox" not in (run.path / "report.html").read_text()
    assert "taken for" in read_page(run).text


def test_labels_cannot_break_the_page_or_the_card(tmp_path):
    labels = ["<script>alert(1)</script>", "a|b*c_d", "$\\frac{1}$"]
    run = make_run(tmp_path, labels)
    write_report(run.path, run.data)
    page = read_page(run)
    assert "script" not in page.tags
    assert all(label in page.text for label in labels)
    card = (run.path / "model_card.md").read_text()
    assert "<script" not in card.replace("\\<script", "")
    table = card[card.index("| label (test") :].split("\n\n")[0].splitlines()
    assert {line.replace("\\|", "").count("|") for line in table} == {7}


def test_the_card_has_metrics_limits_and_commands(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"])
    write_report(run.path, run.data)
    card = (run.path / "model_card.md").read_text()
    for command in ("trainer.predict --run=", "trainer.export --run=", "trainer.evaluate --model="):
        assert f"python -m {command}RUN" in card
    for heading in ("What it does", "How to use it", "Data", "Training", "Metrics", "Limits"):
        assert f"\n## {heading}\n" in card
    assert str(tmp_path) not in card  # it travels
    assert "head: steps 0 to 20; all: steps 20 to 40" in card
    assert "\n\n\n" not in card


@pytest.mark.parametrize("labels", [["cat", "dog"], ["ヒナギク", "a: 'b' # c"]])
def test_the_hub_reads_the_card(tmp_path, labels):
    run = make_run(tmp_path, labels)
    write_report(run.path, run.data)
    card = ModelCard((run.path / "model_card.md").read_text(encoding="utf-8"))
    assert card.data.pipeline_tag == "image-classification"
    found = {(one.metric_type, one.dataset_name, one.dataset_split): one.metric_value for one in card.data.eval_results}
    accuracy = np.mean([p["label"] == p["predicted"] for p in run.predictions])
    assert found["accuracy", "photos 1.0.0", "test"] == pytest.approx(accuracy, abs=1e-6)
    assert card.text.lstrip().startswith("# photos: image classifier")


def test_pages_are_valid_html(tmp_path):
    run = make_run(tmp_path, ["cat", "<b>dog</b>", "猫"])
    write_report(run.path, run.data)
    html5lib.HTMLParser(strict=True).parse((run.path / "report.html").read_text(encoding="utf-8"))


def test_the_last_weights_are_named_where_those_are_kept(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"], selection="last")
    write_report(run.path, run.data)
    assert "kept: all, epoch 4" in squeeze(read_page(run).text)
    assert "phase all, epoch 4, step 40 (the last)" in (run.path / "model_card.md").read_text()


def test_without_a_test_split_validation_is_the_headline_and_said_to_be(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"], splits=("validation",), written=("train", "validation"))
    write_report(run.path, run.data)
    text = squeeze(read_page(run).text)
    assert "of 60 validation images right" in text
    assert "There is no test split: the weights were chosen on these very images" in text
    assert "There is no test split" in (run.path / "model_card.md").read_text()


def test_without_any_split_to_measure_on_the_page_says_so(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"], splits=(), written=("train",))
    write_report(run.path, run.data)
    text = squeeze(read_page(run).text)
    assert "Not measured." in text
    assert "neither a test nor a validation split" in text
    assert "was not measured" in (run.path / "model_card.md").read_text()


def test_the_exported_forms_are_compared_where_they_were_measured(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"])
    write_report(run.path, run.data)
    assert "Exported forms" not in read_page(run).text
    rows = [
        {"form": "saved_model", "bytes": 14_591_115, "milliseconds": 13.27, "milliseconds_of_16": 62.3, "images": 60,
         "right": 51, "same": 60, "difference": 2.7e-7},
        {"form": "model.tflite", "bytes": 13_500_000, "milliseconds": 3.72, "milliseconds_of_16": None, "images": 60,
         "right": 50, "same": 58, "difference": 0.1},
    ]  # fmt: skip
    (run.path / "export").mkdir()
    (run.path / "export" / "forms.json").write_text(json.dumps(rows))
    write_report(run.path, run.data)
    text = squeeze(read_page(run).text)
    assert "Asked about 60 test images" in text
    assert "saved_model 14.6 MB 13.3 ms 62 ms 51 of 60 60 of 60 3e-07" in text
    assert "model.tflite 13.5 MB 3.7 ms – 50 of 60 58 of 60 0.1" in text


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_all_right_and_all_wrong_are_reported(tmp_path, accuracy):
    run = make_run(tmp_path, ["cat", "dog"], accuracy=accuracy)
    if accuracy == 0.0:
        swapped = {"cat": "dog", "dog": "cat"}
        wrong = [p | {"predicted": swapped[p["label"]]} for p in run.predictions]
        write_predictions(run.path, "test", wrong, ["cat", "dog"])
        result = json.loads((run.path / "result.json").read_text())
        result["splits"]["test"] |= {"accuracy": 0.0, "confusion": [[0, 30], [30, 0]]}
        (run.path / "result.json").write_text(json.dumps(result))
    write_report(run.path, run.data)
    page = read_page(run)
    assert f"{100 * accuracy:.1f}\u00a0%" in page.text
    assert ("60 mistakes on 60 test images" in page.text) is (accuracy == 0.0)
    assert ("No mistake on the test images" in page.text) is (accuracy == 1.0)
    assert ("It cannot be told from guessing" in page.text.replace("it cannot", "It cannot")) is (accuracy == 0.0)


def test_images_that_the_dataset_no_longer_holds_leave_a_note(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"])
    other = datasets.write_dataset(
        tmp_path / "other", {"test": datasets.random_records(4, classes=2, seed=9)}, ["cat", "dog"]
    )
    write_report(run.path, other)
    page = read_page(run)
    assert page.images == []
    assert "not in this dataset version" in page.text


def test_a_damaged_shard_is_named(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"])
    shard = pathlib.Path(run.data.shard_paths("test")[0])
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(DataError, match=shard.name):
        write_report(run.path, run.data)


def test_an_unfinished_run_is_refused_with_the_command_that_finishes_it(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"])
    (run.path / "result.json").unlink()
    with pytest.raises(UsageError, match=f"trainer.main --run={run.path}"):
        write_report(run.path, run.data)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = make_run(tmp_path, ["cat", "dog", "owl"])
    write_report(run.path, run.data)
    first = (run.path / "report.html").read_bytes()
    write_report(run.path, run.data)
    assert (run.path / "report.html").read_bytes() == first
    assert not list(run.path.glob("*.tmp"))


def test_curves_show_every_phase_and_stay_small_however_long_the_training():
    rows = [row | {"step": row["step"] + 40 * i} for i in range(1000) for row in ROWS]
    rows = [row | {"phase": "head" if row["step"] < 20000 else "all"} for row in rows]
    curves = charts.learning_curves(rows, kept_step=30000)
    assert sum(map(len, curves)) < 120_000
    roots = [ElementTree.fromstring(svg.replace("xlink:href", "href")) for svg in curves]
    texts = [e.text for root in roots for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("head") == texts.count("all") == 3
    assert texts.count("kept") == 2


@pytest.mark.parametrize(("share", "shown"), [(1.0, "100.0"), (0.99999, "99.9"), (0.0, "0.0"), (0.973, "97.3")])
def test_nothing_short_of_all_is_shown_as_all(share, shown):
    assert percent(share) == f"{shown}\u00a0%"


def test_flat_keys_are_those_that_set_takes():
    flat = flatten({"a": 1, "phases": [{"lr": 0.1}, {"lr": None}], "sizes": [1, 2], "head": {"pooling": "avg"}})
    assert flat == {"a": "1", "phases.0.lr": "0.1", "phases.1.lr": "null", "sizes": "[1, 2]", "head.pooling": "avg"}


def test_the_command_reads_the_version_of_the_run_without_tensorflow(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"])
    datasets.write_dataset(  # a newer version, now the current one
        tmp_path / "data", {"test": datasets.random_records(4, classes=2, seed=9)}, ["cat", "dog"], version="2.0.0"
    )
    code = (
        "import runpy, sys; sys.argv = ['report', *sys.argv[1:]]\n"
        "try: runpy.run_module('trainer.report', run_name='__main__')\n"
        "finally: print('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, f"--run={run.path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    wrote, _, imported = done.stdout.splitlines()
    assert (wrote, imported) == (f"wrote {run.path}/report.html and {run.path}/model_card.md", "False")
    assert read_page(run).images
    (run.path / "config.json").unlink()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 64
    assert "Traceback" not in done.stderr


def test_the_matrix_shows_wide_labels_whole(tmp_path):
    """Kana and kanji are as wide as two letters."""
    labels = ["ヒナギク", "ひまわり（向日葵）", "chat noir", "とても長い名前の花がここに咲いている"]
    run = make_run(tmp_path, labels)
    write_report(run.path, run.data)
    page = (run.path / "report.html").read_text()
    matrix = ElementTree.fromstring(page[page.index("<svg viewBox") :].split("</svg>")[0] + "</svg>")
    rows = [element for element in matrix.iter("text") if element.get("text-anchor") == "end"]
    assert [row.text for row in rows] == [*labels[:3], labels[3][:12] + "…"]
    assert [row.find("title").text for row in rows] == labels
    widest = 13 * 13  # 26 columns at the font's size of 13 pixels, a wide character being as wide as high
    assert float(rows[0].get("x")) >= widest
