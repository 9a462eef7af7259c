"""Tests the quickstart with the real commands behind it: what it refuses, and (slowly) from photos to a model."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.parse

import html5lib
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.chromium import chromium

REPOSITORY = pathlib.Path(__file__).parents[3]
FLAGS = ("--recipe=quick", "--near_duplicates=keep")


def start(folder, *arguments, module="trainer.quickstart"):
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder, *arguments, module="trainer.quickstart"):
    process = start(folder, *arguments, module=module)
    out, err = process.communicate(timeout=1200)
    return process.returncode, out, err


def draw(path, shape, seed):
    """Draws a shape of any colour, size and place on a background of any other; 64 pixels."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8) // 3
    image = Image.fromarray(ground).resize((64, 64), Image.Resampling.BICUBIC)
    size, (left, top) = int(rng.integers(24, 40)), rng.integers(2, 24, 2).tolist()
    box, colour = (left, top, left + size, top + size), tuple(rng.integers(150, 256, 3).tolist())
    pen = ImageDraw.Draw(image)
    if shape == "discs":
        pen.ellipse(box, fill=colour)
    elif shape == "frames":
        pen.rectangle(box, outline=colour, width=5)
    else:
        for step in range(0, size, 8):
            pen.line((left, top + step, left + size, top + step), fill=colour, width=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92)


def draw_folder(folder, *, each, first=0):
    for number, shape in enumerate(("discs", "frames", "stripes")):
        for seed in range(first, first + each):
            draw(folder / shape / f"{seed}.jpg", shape, 1000 * number + seed)


@pytest.mark.parametrize(
    ("files", "code", "said"),
    [
        ({}, 64, "photos: no sub-folders"),
        ({"1.jpg": 1, "2.jpg": 1}, 64, "photos: no sub-folders, and 2 files directly in it; one folder for each class"),
        ({"cat": None, "dog": None}, 65, "the input holds no images with a label"),
        ({f"cat/{number}.jpg": 1 for number in range(5)}, 65, 'only one class, "cat": a classifier needs two or more'),
        ({f"{label}/{n}.jpg": 0 for label in ("a", "b") for n in range(5)}, 65, "10 of 10 images"),
    ],
)
def test_photos_that_cannot_be_learnt_from_are_refused_in_a_line(tmp_path, files, code, said):
    (tmp_path / "photos").mkdir()
    for number, (name, content) in enumerate(files.items()):
        path = tmp_path / "photos" / name
        if content is None:
            path.mkdir()
        elif content:
            draw(path, "discs", number)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text("no image")
    found, _, err = run(tmp_path, "photos")
    assert found == code, err
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert "--input" not in line
    assert not (tmp_path / "photos-model" / "data" / "versions").exists()


def test_a_wrong_number_of_folders_or_a_wrong_time_is_refused(tmp_path):
    for arguments, said in (
        ((), "no folder of photos; give one: python -m trainer.quickstart PHOTOS"),
        (("a", "b"), "got 2 folders; give one"),
        ((".", "--time=soon"), "--time=soon: no length of time; write 90s, 30m or 2h"),
    ):
        code, _, err = run(tmp_path, *arguments)
        assert code == 64
        assert said in err


@pytest.mark.slow
def test_from_photos_to_a_model_killed_and_then_with_more_photos(tmp_path):
    photos, made = tmp_path / "photos", tmp_path / "photos-model"
    draw_folder(photos, each=60)
    for seconds in (3, 15, 30):  # in the build, the check, the head: or wherever it has come
        process = start(tmp_path, "photos", *FLAGS)
        time.sleep(seconds)
        process.kill()
        process.communicate()
    process = start(tmp_path, "photos", *FLAGS)
    for line in process.stdout:
        if "tune  " in line:  # there is a model now, which can be asked while a better one is trained
            break
    photo = "photos/frames/7.jpg"
    code, out, err = run(tmp_path, "--model=photos-model/model", photo, module="trainer.predict")
    assert code == 0, err
    assert out.splitlines()[1].split(",")[0] == photo
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err.strip().endswith("error: stopped; what is done is kept: run the same command again to go on")

    code, out, err = run(tmp_path, "photos", *FLAGS)
    assert code == 0, err
    assert re.search(r"done   \d", out)
    taken = (made / "model").resolve()
    result = json.loads((made / "runs/1.0.0/quick/result.json").read_text())
    assert result["splits"]["validation"]["accuracy"] > 0.6, "chance would be a third"
    check_pages(made)

    started = time.monotonic()
    code, _, err = run(tmp_path, "photos", *FLAGS)
    assert code == 0, err
    assert time.monotonic() - started < 30, "nothing has changed"
    assert (made / "model").resolve() == taken

    draw_folder(photos, each=10, first=60)
    code, out, err = run(tmp_path, "photos", *FLAGS)
    assert code == 0, err
    version = re.search(r"data   version (\S+): 210 images of 3 classes", out)[1]
    assert version != "1.0.0"
    assert (made / "runs" / version / "quick/_SUCCESS").exists()
    check_pages(made)


def check_pages(made):
    """Checks that the page is HTML, links to what is there, and that a browser shows it without a complaint."""
    text = (made / "index.html").read_text()
    html5lib.HTMLParser(strict=True).parse(text)
    links = re.findall(r'href="([^"#]+)"', text)
    assert len(links) >= 4
    for link in links:
        assert (made / urllib.parse.unquote(link)).exists(), link
    with chromium() as page:
        page.open((made / "index.html").as_uri())
        page.wait("document.readyState == 'complete'")
        assert page.run("[...document.querySelectorAll('h2')].map(one => one.textContent)") == [
            "Data", "Model", "Try it", "Next steps",
        ]  # fmt: skip
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.complaints == []
        assert all(url.startswith("file:") for url in page.requests)
