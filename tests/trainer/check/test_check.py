"""Tests the check as a user meets it: wrong labels are found, and the builder takes the table of them."""

import csv
import dataclasses
import html.parser
import json
import pathlib
import re

import html5lib
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.format.manifest import open_dataset
from pipeline.format.rows import checks_folder
from tests import datasets
from tests.beam_jobs.image_folders import run_command
from tests.trainer.commands import run
from trainer import api
from trainer.check.check import check, lines
from trainer.check.page import write_check
from trainer.readiness import check_request
from trainer.request import Request

_DIGITS, _FLIPPED = 400, 20


def write_digits(folder):
    """Writes digits in class folders, a twentieth of them in a wrong one; returns the names of those."""
    digits, random = load_digits(), np.random.default_rng(0)
    wrong = set(random.permutation(_DIGITS)[:_FLIPPED].tolist())
    for number in range(_DIGITS):
        label = int(digits.target[number])
        filed = (label + int(random.integers(1, 10))) % 10 if number in wrong else label
        path = folder / str(filed) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.round(digits.images[number] * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).resize((64, 64), Image.Resampling.BICUBIC).save(path, quality=95)
    return {f"{number}.jpg" for number in wrong}


def build(folder, output, *flags):
    return run_command(
        folder, output, "--splits=train:0.7,validation:0.1,test:0.2", "--near_duplicates=keep", *flags
    )  # fmt: skip


def checked(data):
    request = Request(data=str(data), recipe="quick", backbone=None, weights=None, settings=(), seed=0)
    opened = open_dataset(data)
    output = checks_folder(opened)
    found = check(request, check_request(request, opened), opened, output=output, most=0)
    return found, pathlib.Path(output), list(lines(found, output))


class _Page(html.parser.HTMLParser):
    """Collects what a page consists of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.images = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids |= {values["id"]} if "id" in values else set()
        self.links += [values["href"]] if tag == "a" else []
        self.images += [values] if tag == "img" else []


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Builds digits, some under wrong labels, and checks them."""
    folder = tmp_path_factory.mktemp("digits")
    wrong = write_digits(folder / "photos")
    built = build(folder / "photos", folder / "data")
    return wrong, folder / "data", built, checked(folder / "data")


def test_wrong_labels_are_found_and_listed_worst_first(digits):
    wrong, data, built, (found, output, _) = digits
    assert built.stdout.splitlines()[-1] == f"next, is the data all right? python -m trainer.check {data}"
    with (output / "label_issues.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "source", "label", "suggested", "probability", "split"]
    listed = [row["source"].rpartition("/")[2] for row in rows]
    assert len(wrong & set(listed)) >= 0.6 * len(wrong)
    assert len(wrong & set(listed)) >= 0.5 * len(listed)
    assert [float(row["probability"]) for row in rows] == sorted(float(row["probability"]) for row in rows)
    truth = load_digits().target
    named_rightly = [row["suggested"] == str(truth[int(name[:-4])]) for row, name in zip(rows, listed, strict=True)
                     if name in wrong]  # fmt: skip
    assert np.mean(named_rightly) > 0.8
    records = {r.id: (r.source, split) for split in ("train", "validation", "test")
               for r in open_dataset(data / "versions" / "1.0.0").read(split)}  # fmt: skip
    assert all(records[row["id"]] == (row["source"], row["split"]) for row in rows)
    assert len(found.issues.positions) == len(rows)


@pytest.mark.slow
def test_the_build_takes_the_table_and_the_data_are_better(digits):
    _, data, _, (first, output, _) = digits
    again = build(data.parent / "photos", data, f"--exclude={output / 'label_issues.csv'}")
    assert again.returncode == 0, again.stderr
    second, _, told = checked(data)
    assert second.total == _DIGITS - len(first.issues.positions)
    assert second.correct / len(second.asked) > first.correct / len(first.asked) + 0.02
    assert set(second.changes.removed) == {first.images.ids[at] for at in first.asked[first.issues.positions]}
    assert f"since version 1.0.0: {len(second.changes.removed)} removed" in "\n".join(told)


def test_the_terminal_gets_the_verdict(digits):
    *_, (found, output, told) = digits
    assert len(told) == len(found.findings) + 3
    issues = len(found.issues.positions)
    assert told[0] == f"  amber {issues} of 400 labels look wrong"
    assert re.match(rf"Ready to train\. \w+ things to look at: {issues} labels that look wrong; ", told[-3])
    assert told[-1] == f"report: {output}/report.html"


def test_the_page_shows_pictures_and_needs_nothing_else(digits):
    *_, (found, output, told) = digits
    text = (output / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert told[-3] in text
    html5lib.HTMLParser(strict=True).parse(text)
    assert "script" not in page.tags
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    assert len(page.images) >= min(24, len(found.issues.positions))
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in page.images)
    assert not re.search(r"(src|href)=\"https?:", text)


def test_figures_for_programs(digits):
    _, data, _, (found, output, told) = digits
    figures = json.loads((output / "check.json").read_text())
    assert figures["verdict"] == told[-3]
    assert figures["images"] == {"total": 400, "looked_at": 400, "asked": 400}
    assert figures["label_issues"]["count"] == len(found.issues.positions)
    assert figures["changes"] is None
    assert figures["arrivals"] is None
    assert figures.keys() == {
        "dataset", "verdict", "findings", "images", "label_issues", "probe", "shortcuts", "outliers", "changes",
        "arrivals",
    }  # fmt: skip
    assert figures["dataset"] == {
        "name": "photos", "version": "1.0.0", "fingerprint": open_dataset(data).manifest.source_fingerprint
    }  # fmt: skip
    assert figures["probe"] == {"correct": found.correct, "examples": 400}
    assert {one["level"] for one in figures["findings"]} <= {"green", "amber", "red"}
    assert all(set(one) == {"level", "subject", "text", "short"} for one in figures["findings"])
    assert all(0 <= one["accuracy"] <= 1 for one in figures["shortcuts"])


def test_what_the_pictures_show_is_told_also_where_no_label_is_doubted(digits, tmp_path):
    _, data, _, (found, _, _) = digits
    sound = dataclasses.replace(
        found.issues, positions=found.issues.positions[:0], suggested=found.issues.suggested[:0], confidence=np.zeros(0)
    )
    write_check(
        tmp_path, open_dataset(data), dataclasses.replace(found, issues=sound), next_steps=[], when="2026-01-01"
    )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = re.search(r"what the pictures show</td><td class=\"n\">([\d.]+)", text)
    assert float(shown[1]) == pytest.approx(100 * found.balanced_accuracy, abs=0.06)


def test_from_python_it_is_the_same_check(digits, tmp_path):
    _, data, _, (_, output, said) = digits
    result = api.check(data, output=tmp_path, recipe="quick", images=0)
    assert result.issues_file == f"{tmp_path}/label_issues.csv"
    assert (tmp_path / "label_issues.csv").read_bytes() == (output / "label_issues.csv").read_bytes()
    with (output / "label_issues.csv").open(encoding="utf-8") as file:
        assert list(result.issues) == list(csv.DictReader(file))
    assert result.verdict in said
    assert [f"  {one.level:<6}{one.text}" for one in result.findings] == [line for line in said if line[:2] == "  "]
    assert result.ready == result.verdict.startswith("Ready")
    cell = result._repr_html_()
    assert result.verdict in cell
    assert len(cell) < 30_000 < (tmp_path / "report.html").stat().st_size


def test_random_features_are_refused_before_anything_is_computed(tmp_path):
    data = datasets.write_dataset(tmp_path, {"train": datasets.coloured_records(8, classes=2)}, ["a", "b"])
    done = run(f"--data={tmp_path}", "--recipe=cifar10_cnn", module="trainer.check")
    assert done.returncode == 64
    assert done.stderr.startswith("error: recipe cifar10_cnn begins with random weights, whose features tell nothing: ")
    assert not pathlib.Path(checks_folder(data)).exists()


@pytest.mark.slow
def test_little_data_get_a_verdict_all_the_same(tmp_path):
    records = datasets.coloured_records(3, classes=2, side=40)
    data = datasets.write_dataset(tmp_path, {"train": [records[0], records[1]]}, ["a", "b"])
    done = run(f"--data={tmp_path}", module="trainer.check")
    assert done.returncode == 0, done.stderr
    assert "every label has a single image" in done.stdout
    assert "Not ready to train. One thing first: more images of every label" in done.stdout
    assert (pathlib.Path(checks_folder(data)) / "report.html").exists()
