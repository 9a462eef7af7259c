"""Tests try.html in a real Chromium without a network: the answers are those of trainer.predict, photo by photo."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipeline.command import CommandError
from tests.chromium import chromium
from trainer.models import HeadConfig
from trainer.models.classifier import build_classifier
from trainer.serving.export import export_classifier
from trainer.serving.forms import TOLERANCE
from trainer.serving.loading import find_model, load_model, load_parts
from trainer.serving.page.render import render_page
from trainer.serving.page.runtime import default_folder, fetch_runtime, read_runtime
from trainer.serving.predict import predict

pytestmark = pytest.mark.slow

LABELS = ["daisy", "dandelion", '</script>"', "sunflowers", "tulips", "Sonnenblume, groß", "the seventh"]
SIZE = 96
READY = "document.readyState === 'complete' && document.getElementById('told')?.textContent"
TOLD = "(told => !['', 'Looking at it …'].includes(told) && told)(document.getElementById('told').textContent)"
ROWS = "[...document.querySelectorAll('#answers li')].map(row => [row.dataset.label, +row.dataset.probability])"


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Makes a model whose answers move with little: its head is ten times as steep as a new one."""
    classifier = build_classifier(
        backbone="efficientnet_lite0", weights="imagenet", num_classes=len(LABELS), height=SIZE, width=SIZE,
        head=HeadConfig(), seed=3,
    )  # fmt: skip
    classifier.head.set_weights([10 * weights for weights in classifier.head.get_weights()])
    folder = tmp_path_factory.mktemp("export") / "export"
    export_classifier(classifier, labels=LABELS, height=SIZE, width=SIZE, preprocess="lite", directory=folder)
    try:
        fetch_runtime(default_folder())
    except CommandError as error:
        pytest.skip(str(error))
    page = render_page(folder, title="flowers", runtime=read_runtime(default_folder()))
    (folder / "try.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def photos(shared_data, tmp_path_factory):
    """Lists real photos, and files as people have them."""
    real = sorted((shared_data / "flowers").rglob("*.jpg"))[::27][:30]
    folder = tmp_path_factory.mktemp("odd")
    photo = Image.open(real[3]).convert("RGB")
    large = photo.resize((4000, 3000), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(folder / "phone.jpg", quality=92, exif=exif)
    large.save(folder / "large.jpg", quality=95)
    photo.save(folder / "progressive.jpg", progressive=True, quality=80)
    photo.save(folder / "two pictures.jpg", "MPO", save_all=True, append_images=[photo])
    photo.convert("L").save(folder / "grey.jpg")
    photo.convert("L").save(folder / "grey.png")
    photo.convert("CMYK").save(folder / "print.jpg")
    see_through = photo.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(photo.size))
    see_through.save(folder / "transparent.png")
    photo.quantize(64).save(folder / "palette.png")
    photo.save(folder / "turned.webp", exif=exif, quality=90)
    for name in ("photo.webp", "photo.gif", "photo.bmp"):
        photo.save(folder / name)
    return [*real, *sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def page(export):
    with chromium() as page:
        nothing = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        page.call("Network.emulateNetworkConditions", offline=True, **nothing)
        page.open(f"file://{export / 'try.html'}")
        assert page.wait(READY) == "The model is ready."
        yield page
        loaded = [url for url in page.requests if not url.startswith(("blob:", "data:"))]
        assert loaded == [f"file://{export / 'try.html'}"]
        # LiteRT.js looks for a GPU, and Chromium remarks that there is none.
        assert set(page.complaints) <= {"No available adapters."}


def answer(page):
    """Waits for what the page answers: what it tells, and its probabilities."""
    return page.wait(TOLD), dict(page.run(ROWS))


def ask(page, file):
    page.run("document.getElementById('told').textContent = ''")
    page.choose("#file", [file])
    return answer(page)


def expected_of(export, files):
    """Asks as trainer.predict does."""
    for answer in predict(load_parts(find_model(str(export))), map(str, files), batch_size=8):
        assert not answer.problem
        yield answer.probabilities


def test_every_photo_is_answered_as_by_trainer_predict(page, export, photos):
    largest = 0.0
    for file, expected in zip(photos, expected_of(export, photos), strict=True):
        told, found = ask(page, file)
        difference = max(abs(found[label] - p) for label, p in zip(LABELS, expected, strict=True))
        assert difference < TOLERANCE, f"{file.name}: {told}, off by {difference:.2g}"
        assert told.startswith(LABELS[int(expected.argmax())])
        largest = max(largest, difference)
    print(f"{len(photos)} files, largest difference of a probability {largest:.2g}")


def test_pixels_from_full_size_would_not_do(export, photos):
    """What a browser's own decoder would give: the test above tells it apart."""
    signature = load_model(find_model(str(export)))
    differences = []
    for file in photos[:30]:
        png = io.BytesIO()
        with Image.open(file) as image:
            image.convert("RGB").save(png, "PNG")
        one, other = (signature([data])["probabilities"] for data in (png.getvalue(), file.read_bytes()))
        differences.append(np.abs(one - other).max())
    assert sum(difference > TOLERANCE for difference in differences) > 10


def test_a_photo_may_be_dropped_and_pasted(page, photos):
    data = base64.b64encode(photos[0].read_bytes()).decode()
    _, expected = ask(page, photos[0])
    made = f"""
        document.getElementById('told').textContent = '';
        const bytes = Uint8Array.from(atob('{data}'), letter => letter.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], 'photo.jpg', {{type: 'image/jpeg'}}));
    """
    for event in (
        "new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true})",
        "new ClipboardEvent('paste', {clipboardData: files, bubbles: true})",
    ):
        ask(page, photos[1])
        page.run(f"(() => {{ {made} document.body.dispatchEvent({event}); }})()")
        assert answer(page)[1] == expected


def test_the_camera_gives_a_photo(page):
    page.run("document.getElementById('camera').click()")
    page.wait("document.getElementById('video').videoWidth > 0")
    page.run("document.getElementById('told').textContent = ''; document.getElementById('snap').click()")
    told, found = answer(page)
    assert told.partition(",")[0] in " ".join(LABELS)
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    assert page.run("document.getElementById('viewfinder').hidden")
    assert page.run("document.getElementById('video').srcObject === null")


def test_five_answers_are_shown_and_all_on_demand(page, photos):
    ask(page, photos[0])
    shown = "[...document.querySelectorAll('#answers li')].filter(row => row.offsetHeight > 0).length"
    assert page.run(shown) == 5
    assert page.run("document.getElementById('all').textContent") == "Show all 7"
    page.run("document.getElementById('all').focus()")
    for key in ("keyDown", "keyUp"):  # as a person without a mouse
        page.call("Input.dispatchKeyEvent", type=key, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert page.run(shown) == 7
    assert page.run("document.getElementById('all').ariaExpanded") == "true"
    probabilities = [p for _, p in page.run(ROWS)]
    assert probabilities == sorted(probabilities, reverse=True)


def test_what_is_no_photo_is_said(page, photos, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGBA", (50, 50)).save(tmp_path / "nothing.png")
    (tmp_path / "cut.jpg").write_bytes(photos[0].read_bytes()[:5000])
    assert ask(page, tmp_path / "text.jpg")[0] == "text.jpg: this browser cannot read it as an image"
    assert ask(page, tmp_path / "cut.jpg")[0] == "cut.jpg: this JPEG ends before its picture does"
    assert ask(page, tmp_path / "nothing.png")[0] == "nothing.png: it is transparent everywhere"
    assert page.run("document.getElementById('told').className") == "wrong"


def test_it_fits_a_phone(page, photos):
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    ask(page, photos[0])
    assert page.run("document.documentElement.scrollWidth") == 390
    heights = page.run("[...document.querySelectorAll('button')].map(one => one.offsetHeight)")
    assert min(filter(None, heights)) >= 44, "for a thumb"
    page.call("Emulation.clearDeviceMetricsOverride")
