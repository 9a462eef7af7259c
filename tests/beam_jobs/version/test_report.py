"""Tests that report.html says what the files of the version say, needs nothing from outside and stays small."""

import contextlib
import html.parser
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from beam_jobs.version import gallery
from pipeline.format.manifest import Manifest
from pipeline.images.guarded import Decoder, ImageBudget
from pipeline.images.policy import PixelPolicy
from tests.beam_jobs.image_folders import make_row, run_build, save_image

EVIL = "<script>alert(1)</script>"


class Page(html.parser.HTMLParser):
    """Collects tags, and the text of each section by its id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sections, self.section = [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "section":
            self.section = attrs["id"]

    def handle_endtag(self, tag):
        if tag == "section":
            self.section = ""

    def handle_data(self, data):
        if data.strip():
            self.sections.setdefault(self.section, []).append(data.strip())

    def text(self, section):
        return re.sub(r"\s+", " ", " ".join(self.sections.get(section, [])))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds two classes with a copy, look-alikes, a conflict, dark, long and damaged images: (directory, page)."""
    root = tmp_path_factory.mktemp("report")
    for number in range(30):
        save_image(root / f"in/{'cat' if number % 2 else EVIL.replace('/', '')}/{number}.png", number, size=(96, 128))
    cats, dogs = root / "in/cat", root / "in" / EVIL.replace("/", "")
    shutil.copy(cats / "1.png", cats / "copy.png")
    shutil.copy(cats / "3.png", dogs / "other.png")
    Image.open(cats / "5.png").convert("RGB").resize((100, 75)).save(cats / "alike.jpg", quality=80)
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (90, 90, 3), np.uint8)).save(cats / "night.png")
    Image.open(cats / "7.png").convert("RGB").resize((400, 40)).save(cats / "long.png")
    (cats / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (cats / f"{EVIL.replace('/', '')}.jpg").write_bytes(b"")
    outcome = run_build(root / "in", root / "out", max_reject_fraction=0.5)
    version = root / "out/versions" / outcome.version
    return version, Page((version / "report.html").read_text())


def test_nothing_comes_from_outside_and_no_name_becomes_markup(built):
    version, page = built
    text = (version / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:|//|file:)", text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    for tag, attrs in page.tags:
        if tag == "img":
            assert attrs["src"].startswith("data:image/jpeg;base64,")
    assert "alert(1)" in page.text("balance")  # the label is shown, as text


def test_the_numbers_are_those_of_the_files(built):
    version, page = built
    statistics = json.loads((version / "statistics.json").read_text())
    for label, count in statistics["total"]["labels"].items():
        assert re.search(rf"{re.escape(label)} {count} ", page.text("balance"))
    rejects = [json.loads(line) for line in (version / "rejects.jsonl").read_text().splitlines()]
    codes = {row["code"] for row in rejects}
    assert codes == {"duplicate", "label_conflict", "corrupt", "not_an_image"}
    for code in codes:
        count = sum(row["code"] == code for row in rejects)
        assert f"{code.replace('_', ' ')} {count}" in page.text("rejects")
    assert all(row["detail"] in page.text("rejects") for row in rejects)


def test_copies_and_outliers_are_shown(built):
    _, page = built
    copies = page.text("copies")
    for title in ("One picture under several labels 1 group", "Same pixels 1 group", "Look alike 2 groups"):
        assert title in copies
    extremes = page.text("extremes")
    assert re.search(r"darkest cat brightness 0\.0\d night\.png", extremes)
    assert re.search(r"longest cat 10\.0:1, 400 × 40 long\.png", extremes)
    shown = sum(tag == "img" for tag, _ in page.tags)
    assert shown > 60
    assert sum("absent" in attrs.get("class", "") for _, attrs in page.tags) == 2  # the damaged file and the empty one


def test_the_page_stays_small_for_many_images_and_classes(tmp_path, built):
    """25,600 images of 1,000 classes, 20,000 rejects, 5,000 groups; more of each kind would add no picture."""
    version, _ = built
    image = (version.parents[2] / "in/cat/1.png").read_bytes()
    labels = [f"class-{number:03d}" for number in range(1000)]
    picks = gallery.Pick()
    picks.start_bundle()
    for number in range(25_600):
        digest = number.to_bytes(32, "big")
        label = labels[number % 1000]
        picks.process(make_row(f"{label}/{number}.jpg", id=digest, label=label, size=(10 + number % 97, 20)))
    (pictures,) = (windowed.value[1] for windowed in picks.finish_bundle())
    reject = {"uri": "class-001/1.jpg", "label": "class-001", "code": "truncated", "detail": "cut"}
    member = {"uri": "class-001/2.jpg", "label": "class-001", "split": None}
    group = {"kind": "near", "kept": [member["uri"]], "members": [member] * 50}

    class Source:
        def read(self, item):
            return image

    data = json.loads((version / "manifest.json").read_text())
    data["labels"] = labels
    statistics = json.loads((version / "statistics.json").read_text())
    for part in (statistics["total"], *statistics["splits"].values()):
        part["labels"] = dict.fromkeys(labels, 100)
    with contextlib.closing(Decoder(PixelPolicy(), ImageBudget())) as decoder:
        page = gallery.report(
            manifest=Manifest.from_json(json.dumps(data)),
            statistics=statistics,
            rejects=(json.dumps(reject) + "\n") * 20_000,
            duplicates=(json.dumps(group) + "\n") * 5_000,
            found=gallery.survey_of(gallery.merge((None, [pictures])), (), ()),
            source=Source(),
            decoder=decoder,
        )
    assert len(page) < 8_000_000
    assert page.count("<img") < 700
    assert "5,000 groups" in page
    assert "20,000" in page
