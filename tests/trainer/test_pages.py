"""Tests the pages in a real browser, on a desk and on a phone: nothing sticks out, no label breaks inside a word."""

import dataclasses
import html
import json
import pathlib
import re
import shutil
import subprocess
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from pipeline.format.manifest import open_dataset
from pipeline.format.rows import FACTS, changes_between, known_images
from pipeline.predictions import read_predictions
from retrain.data.gate import judge_against
from retrain.data.page import write_data_gate
from retrain.index import write_index
from retrain.limits import DataGateConfig
from tests.retrain.test_index import write_log
from tests.trainer.check.test_check import build, checked, write_digits
from tests.trainer.report.test_page import make_run
from trainer.report.comparison import compare
from trainer.report.comparison_page import write_comparison
from trainer.report.explanations import FILE, Explanations
from trainer.report.page import write_report
from trainer.report.run_list import find_runs
from trainer.report.run_list import write_index as write_runs

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]
LABELS = [
    "ヒナギク（雛菊）",
    "زهرة عباد الشمس",
    "🌻 sunflower",
    "german_shorthaired_pointer",
    "Xoloitzcuintle" * 2,
    "cat",
]

PAGES = ("report", "comparison", "index", "check", "build", "passes", "gate")
# Loads a page in a frame of the width asked for; a window cannot be that narrow.
FRAME = """<!doctype html><meta charset="utf-8">
<iframe id="f" src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<script>
document.getElementById("f").onload = function () {{
  const page = this.contentDocument, broken = [];
  for (const box of page.querySelectorAll("figcaption b, td:not(:has(code)), h3")) {{
    const walker = page.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {{
      for (const word of walker.currentNode.data.matchAll(/[A-Za-z]+/g)) {{
        const range = page.createRange();
        range.setStart(walker.currentNode, word.index);
        range.setEnd(walker.currentNode, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) broken.push(word[0]);
      }}
    }}
  }}
  const found = {{
    wide: page.documentElement.scrollWidth, room: page.documentElement.clientWidth, broken: broken,
    silent: [...page.images].filter(i => !i.alt).length, scripts: page.scripts.length,
    empty: [...page.images].filter(i => i.loading != "lazy" && !i.naturalWidth).length,
    links: [...page.querySelectorAll("a[href^='#']")].filter(a => !page.querySelector(a.getAttribute("href"))).length,
  }};
  document.title = JSON.stringify(found);
}};
</script>"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Writes every page that we make."""
    folder = tmp_path_factory.mktemp("pages")
    run = make_run(folder, LABELS, count=120, accuracy=0.5)
    ids, random = [record.id for record in run.records], np.random.default_rng(0)
    explained = Explanations(
        split="test",
        ids=ids,
        features=random.normal(size=(120, 8)),
        train_ids=ids,
        train_labels=np.array([record.label for record in run.records]),
        train_features=random.normal(size=(120, 8)),
        looked_at=ids[:60],
        pictures=random.integers(0, 256, (60, 40, 40, 3), dtype=np.uint8),
        heat=random.random((60, 7, 7)).astype(np.float32),
    )
    (run.path / FILE).write_bytes(explained.to_bytes())
    known = dataclasses.replace(known_images(run.data), facts={name: random.random(360) for name in FACTS})
    with mock.patch("trainer.report.evaluation.known_images", return_value=known):  # as if a build had told them
        write_report(run.path, run.data)
    one = read_predictions(run.path, "test")
    other = turned(one)
    comparison = folder / "comparison.html"
    write_comparison(
        comparison, compare(one, other), (one, other), names=("one", "other"), split="test", data=run.data
    )  # fmt: skip
    index = write_runs(folder, find_runs(folder, lambda path: "finished"))
    write_digits(folder / "photos")
    assert build(folder / "photos", folder / "digits").returncode == 0
    _, checks, _ = checked(folder / "digits")
    write_photos(folder / "named")
    assert build(folder / "named", folder / "built").returncode == 0
    (version,) = (folder / "built" / "versions").iterdir()
    report = run.path / "report.html"
    passes = write_log(folder / "passes")
    write_index(passes)
    return {
        "report": report,
        "comparison": comparison,
        "index": pathlib.Path(index),
        "check": checks / "report.html",
        "build": version / "report.html",
        "passes": passes / "index.html",
        "gate": write_gate(folder),
    }


def write_gate(folder):
    """Writes the page of a data gate that finds a label gone and photos under another one."""
    photos, root = folder / "named", folder / "built"
    shutil.rmtree(photos / LABELS[3])
    for number in range(6):
        (photos / LABELS[4] / f"a_long_name_of_a_photo_{number}.png").rename(photos / LABELS[0] / f"moved_{number}.png")
    assert build(photos, root).returncode == 0
    first, second = (open_dataset(root / "versions" / version) for version in ("1.0.0", "2.0.0"))
    before, after = known_images(first), known_images(second)
    checks = judge_against(before, after, changes_between(before, after), None, DataGateConfig())
    write_data_gate(folder / "gate", list(checks), content="0123456789ab", accepted=False, data=second,
                    reference=first, check="report.html")  # fmt: skip
    return folder / "gate" / "gate-data.html"


def write_photos(folder):
    """Writes some photos of each label, a copy of one under another label, and a file that is none."""
    for number, label in enumerate(LABELS):
        of_label = np.random.default_rng(number)
        (folder / label).mkdir(parents=True)
        for photo in range(12):
            pixels = of_label.integers(0, 256, (60, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"a_long_name_of_a_photo_{photo}.png")
    shutil.copy(folder / "cat" / "a_long_name_of_a_photo_0.png", folder / LABELS[0] / "copy.png")
    (folder / "cat" / "broken.jpg").write_bytes(b"no image")


def turned(found):
    """Returns other answers to the same images."""
    return dataclasses.replace(found, log_probabilities=np.roll(found.log_probabilities, 1, axis=0))


def browse(page, width, folder, *flags):
    """Opens a page in a frame so wide."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri(), width=width), encoding="utf-8")
    return subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--allow-file-access-from-files", "--virtual-time-budget=5000"),
            *(f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", *flags, frame.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(("dark", "light_of_paper"), [(False, (235, 255)), (True, (10, 35))])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_screenshot_shows_text_and_pictures_on_light_and_dark_paper(
    pages, tmp_path, name, width, dark, light_of_paper
):
    flags = ["--blink-settings=preferredColorScheme=0"] if dark else []
    browse(pages[name], width, tmp_path, "--hide-scrollbars", f"--screenshot={tmp_path / 'page.png'}", *flags)
    with Image.open(tmp_path / "page.png") as image:
        shown = np.asarray(image.convert("L").crop((8, 8, 8 + width, 890)))
    low, high = light_of_paper
    assert low <= np.median(shown) <= high
    ink = np.abs(shown.astype(int) - int(np.median(shown))) > 90
    assert 0.003 < ink.mean() < 0.6


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_and_says_everything_in_words(pages, tmp_path, name, width):
    done = browse(pages[name], width, tmp_path, "--dump-dom")
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))
    assert found["wide"] <= found["room"] <= width
    assert found["broken"] == []
    assert (found["silent"], found["scripts"], found["empty"], found["links"]) == (0, 0, 0, 0)
