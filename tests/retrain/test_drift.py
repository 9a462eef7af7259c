"""Compares what models are asked with what they were evaluated on: known distributions, and real photos."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from beam_jobs.splits import SplitFractions
from pipeline.format.answer_log import AnswerLog, Answers, read_answers, served_name
from pipeline.format.manifest import open_dataset
from pipeline.format.reference import Reference, read_reference
from pipeline.format.rows import FACTS
from pipeline.format.sums import damage
from pipeline.images.facts import comparable_of
from pipeline.images.look import inspect
from pipeline.images.policy import PixelPolicy
from retrain import registry
from retrain.data.gate import Outcome, worst
from retrain.drift.compare import FEWEST, compare, different
from retrain.drift.confidence import confidence, days
from retrain.limits import DataGateConfig
from tests.beam_jobs.image_folders import run_build

LABELS = ("a", "b", "c", "d")
ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Makes images whose features and facts hang on their label, and answers that are as sure as they are right."""

    shares: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)
    darker: float = 0.0
    moved: float = 0.0

    def images(self, count: int, random: np.random.Generator) -> dict[str, np.ndarray]:
        truth = random.choice(4, size=count, p=self.shares)
        features = 2.0 * np.eye(12)[truth] + random.normal(size=(count, 12)) + 1.0
        features[:, 6:] += self.moved
        logits = 2.0 * features[:, :4]
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        # True labels by these probabilities: they are calibrated.
        truth = (probabilities.cumsum(axis=1) > random.random((count, 1))).argmax(axis=1)
        brightness = 0.5 + 0.05 * truth + 0.1 * random.normal(size=count) - self.darker
        return {
            "truth": truth,
            "probabilities": probabilities.astype(np.float32),
            "features": features.astype(np.float32),
            "brightness": brightness,
            "area": random.integers(1, 9, size=count) * 1e4 + random.random(count),
        }


def reference_of(world: World, count: int, random: np.random.Generator) -> Reference:
    made = world.images(count, random)
    return Reference(
        dataset="flowers 1.0.0", split="test", labels=LABELS, truth=made["truth"], probabilities=made["probabilities"],
        features=made["features"], facts={name: made[name] for name in ("brightness", "area")},
    )  # fmt: skip


def answers_of(world: World, count: int, random: np.random.Generator) -> Answers:
    made = world.images(count, random)
    return Answers(
        model="1-aa", labels=LABELS, seconds=np.arange(count) * 3600.0, probabilities=made["probabilities"],
        features=made["features"], facts={name: made[name] for name in ("brightness", "area")}, others={}, damaged=(),
    )  # fmt: skip


def checks_of(reference: Reference, answers: Answers, **limits):
    return {check.name: check for check in compare(reference, answers, DataGateConfig(**limits))}


def outcomes(reference: Reference, answers: Answers) -> dict[str, Outcome]:
    return {name: check.outcome for name, check in checks_of(reference, answers).items()}


def false_alarms(draws: int, seed: int) -> tuple[int, int]:
    """Counts p-values below 5 % of three tests, and holds, of logs with nothing wrong."""
    low = held = 0
    for draw in range(draws):
        random = np.random.default_rng([seed, draw])
        checks = checks_of(reference_of(World(), 120, random), answers_of(World(), 60, random))
        low += checks["label shift"].figures["p_value"] < 0.05
        low += min(of["p_value"] for of in checks["facts"].figures.values()) < 0.05
        low += checks["pixels"].figures["p_value"] < 0.05
        held += worst(checks.values()) == Outcome.HOLD
    return low, held


def test_alarms_where_nothing_is_wrong_are_as_rare_as_promised():
    low, held = false_alarms(12, seed=1)
    assert held == 0
    assert low <= 5  # of 36 at 5 %: more come once in 100 times


@pytest.mark.slow
def test_alarms_where_nothing_is_wrong_are_as_rare_as_promised_of_many():
    low, held = false_alarms(300, seed=2)
    assert held == 0
    assert 20 <= low <= 65  # of 900 at 5 %: 45, four standard errors


def test_other_shares_of_the_labels_are_told_and_are_no_other_images():
    random = np.random.default_rng(3)
    shifted = answers_of(World(shares=(0.6, 0.2, 0.1, 0.1)), 300, random)
    checks = checks_of(reference_of(World(), 300, random), shifted)
    assert checks["label shift"].outcome == Outcome.WARN
    assert re.match(r"49% of the answers are a, 25% of those of the reference", checks["label shift"].text)
    assert (checks["facts"].outcome, checks["pixels"].outcome) == (Outcome.OK, Outcome.OK)


def test_dark_images_differ_in_brightness_and_not_in_size():
    random = np.random.default_rng(4)
    checks = checks_of(reference_of(World(), 200, random), answers_of(World(darker=0.15), 100, random))
    assert checks["facts"].outcome == Outcome.WARN
    assert "brightness" in checks["facts"].text
    assert "area" not in checks["facts"].text
    assert checks["pixels"].outcome == Outcome.OK


def test_other_images_are_held_though_the_answers_are_the_same():
    random = np.random.default_rng(5)
    checks = checks_of(reference_of(World(), 200, random), answers_of(World(moved=1.5), 100, random))
    assert checks["label shift"].outcome == Outcome.OK
    assert checks["pixels"].outcome == Outcome.HOLD
    assert checks["pixels"].figures["area"] > 0.9


def test_limits_are_those_of_the_configuration():
    random = np.random.default_rng(5)
    reference, answers = reference_of(World(), 200, random), answers_of(World(moved=1.5), 100, random)
    assert checks_of(reference, answers, separable=1.0)["pixels"].outcome == Outcome.WARN
    assert checks_of(reference, answers, level=0.0)["pixels"].outcome == Outcome.OK


def test_an_image_that_is_sent_again_and_again_counts_once():
    random = np.random.default_rng(6)
    reference, answers = reference_of(World(), 150, random), answers_of(World(), 80, random)
    at = np.concatenate([np.arange(80), np.zeros(500, int)])  # a monitor sends the first image all day
    monitored = dataclasses.replace(
        answers, seconds=np.arange(580.0), probabilities=answers.probabilities[at], features=answers.features[at],
        facts={name: values[at] for name, values in answers.facts.items()},
    )  # fmt: skip
    np.testing.assert_array_equal(different(monitored), np.arange(80))
    alone, again = checks_of(reference, answers), checks_of(reference, monitored)
    assert again.keys() == alone.keys()
    assert all(again[name].figures == alone[name].figures for name in ("label shift", "facts", "pixels"))
    assert again["answers"].text.startswith("580 answers about 80 different images")
    without = dataclasses.replace(monitored, facts={})
    assert len(different(without)) == 80


def test_what_is_not_logged_is_not_compared_and_said():
    random = np.random.default_rng(7)
    reference, answers = reference_of(World(), 150, random), answers_of(World(moved=3, darker=0.4), 80, random)
    checks = checks_of(reference, dataclasses.replace(answers, features=None, facts={}))
    assert checks["facts"].text == checks["pixels"].text == "not compared: not in the log, or not in the reference"
    assert worst(checks.values()) == Outcome.OK
    # Some rows without are left out.
    answers.features[:40] = np.nan
    answers.facts["brightness"][:40] = np.nan
    checks = checks_of(reference, answers)
    assert checks["pixels"].text.startswith("40 images beside 150")
    assert checks["facts"].outcome == Outcome.WARN


def test_answers_that_the_reference_never_has_are_told_by_their_shares():
    random = np.random.default_rng(8)
    reference = reference_of(World(shares=(0.5, 0.5, 0.0, 0.0)), 150, random)
    keep = reference.probabilities.argmax(axis=1) < 2
    reference = dataclasses.replace(
        reference, truth=reference.truth[keep], probabilities=reference.probabilities[keep],
        features=reference.features[keep], facts={name: of[keep] for name, of in reference.facts.items()},
    )  # fmt: skip
    answers = answers_of(World(shares=(0.0, 0.0, 0.5, 0.5)), 100, random)
    checks = checks_of(reference, answers)
    assert checks["label shift"].outcome == Outcome.WARN
    assert "too few to tell" in checks["pixels"].text


def test_the_estimate_is_the_accuracy_where_the_model_knows_the_images():
    covered = []
    for draw in range(200):
        random = np.random.default_rng([9, draw])
        reference = reference_of(World(), 200, random)
        made = World(shares=(0.7, 0.1, 0.1, 0.1)).images(300, random)
        found = confidence(reference, made["probabilities"])
        right = (made["probabilities"].argmax(axis=1) == made["truth"]).mean()
        before = (reference.probabilities.argmax(axis=1) == reference.truth).mean()
        sure = made["probabilities"].max(axis=1).mean() - reference.probabilities.max(axis=1).mean()
        assert found.accuracy_before == pytest.approx(before)
        assert found.accuracy == pytest.approx(before + sure, abs=1e-6)
        assert found.unsure_before == pytest.approx(0.1, abs=0.01)
        assert found.interval[0] < found.accuracy < found.interval[1]
        covered.append(found.interval[0] <= right <= found.interval[1])
    assert np.mean(covered) > 0.91  # of 200 draws at 95 %


def test_without_true_labels_nothing_is_estimated():
    random = np.random.default_rng(10)
    reference = dataclasses.replace(reference_of(World(), 50, random), truth=np.full(50, -1))
    found = confidence(reference, World().images(40, random)["probabilities"])
    assert (found.accuracy, found.accuracy_before, found.interval) == (None, None, None)


def test_days_are_counted_in_utc():
    answers = answers_of(World(), 50, np.random.default_rng(11))  # one an hour from 1970-01-01 on
    found = days(answers, below=0.5)
    assert [(day.date, day.answers) for day in found] == [("1970-01-01", 24), ("1970-01-02", 24), ("1970-01-03", 2)]
    assert found[0].confidence == pytest.approx(answers.probabilities[:24].max(axis=1).mean())


def run(*arguments: str, poison: tuple[str, ...] = ("tensorflow", "keras", "trainer", "beam_jobs")):
    """Runs the command in a process in which what it may not import cannot be imported."""
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({poison!r})); "
        "runpy.run_module('retrain.drift', run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture
def models(tmp_path) -> pathlib.Path:
    """Makes a registry of two models, the second the champion."""
    root = tmp_path / "models"
    for number in (1, 2):
        export = tmp_path / f"export{number}"
        export.mkdir()
        (export / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
        (export / "model.tflite").write_bytes(b"weights %d" % number)
        content = reference_of(World(), 150, np.random.default_rng(number)).to_bytes()
        (export / "reference.npz").write_bytes(content)
        contents = {child.name: str(child) for child in export.iterdir()}
        registry.set_champion(str(root), registry.publish(str(root), contents, {"pass_id": str(number)}))
    return root


def serve(
    folder: pathlib.Path, model: pathlib.Path | str, count: int, *, world: World | None = None, seconds: float = 0.0
) -> None:
    """Logs answers, as a server does; the last one `seconds` ago."""
    made = (world or World()).images(count, np.random.default_rng(12))
    log = AnswerLog(folder, model=served_name(model), labels=LABELS, rows=50)
    for at in range(count):
        log.add(
            probabilities=made["probabilities"][at],
            features=made["features"][at],
            facts={name: float(made[name][at]) for name in ("brightness", "area")},
            seconds=time.time() - seconds - 60 * (count - 1 - at),
        )
    log.close()


def test_published_models_keep_their_reference_under_a_digest(models):
    assert read_reference(models / "2").labels == LABELS
    assert "reference.npz" in (models / "2" / "SHA256SUMS").read_text()
    (models / "2" / "reference.npz").write_bytes(b"")
    assert damage(models / "2") == ["reference.npz is not what was published"]


def test_all_right_is_0_with_page_json_and_text(tmp_path, models):
    serve(tmp_path / "log", models / "champion", 120)
    done = run(f"--log={tmp_path / 'log'}", f"--model={models / 'champion'}", f"--result={tmp_path / 'result.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"ok    answers: 120 answers, from \d{4}", done.stdout)
    assert "accuracy, as the confidence lets guess: " in done.stdout
    beside = json.loads((tmp_path / "log" / "drift.json").read_text())
    result = json.loads((tmp_path / "result.json").read_text())
    assert (beside["outcome"], result["outcome"], result["exit_code"], result["reasons"]) == ("ok", "ok", 0, [])
    assert [check["name"] for check in beside["checks"]] == ["answers", "label shift", "facts", "pixels"]
    assert beside["model"].startswith("2-")
    page = (tmp_path / "log" / "drift.html").read_text()
    assert "Nothing to be said against what the model is asked" in page
    assert page.count("<polyline") == 4


def test_other_images_are_65_with_the_report(tmp_path, models):
    serve(tmp_path / "log", models / "champion", 120, world=World(moved=1.5))
    page = tmp_path / "pages" / "drift.html"
    page.parent.mkdir()
    done = run(f"--log={tmp_path / 'log'}", f"--model={models / 'champion'}", f"--output={page}")
    assert done.returncode == 65
    assert re.match(rf"error: pixels: 120 images beside 1\d\d .*\. {page} shows it\n$", done.stderr)
    assert "other images than those it was evaluated on" in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["exit_code"] == 65


def test_a_configuration_names_registry_and_limits(tmp_path, models):
    serve(tmp_path / "log", models / "2", 120, world=World(moved=1.5))
    config = tmp_path / "retrain.yaml"
    config.write_text(
        "input: photos\ndata: data\nruns: runs\nmodels: models\ngate: {margin: 0.02, minimum_accuracy: 0.5}\n"
        "data_gate: {separable: 1.0}\n"
    )
    done = run(f"--log={tmp_path / 'log'}", f"--config={config}", "--since=12h")
    assert done.returncode == 0, done.stderr
    assert "\nwarn  pixels: " in done.stdout


@pytest.mark.parametrize("count", [0, 7])
def test_too_few_answers_are_said(tmp_path, models, count):
    log = tmp_path / "log"
    log.mkdir()
    if count:
        serve(log, models / "2", count)
    done = run(f"--log={log}", f"--model={models / 'champion'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"warn  answers: {count} answers, too few to tell; {FEWEST} are needed\n")
    assert (log / "drift.html").exists()


def test_only_what_was_answered_since_then_counts(tmp_path, models):
    serve(tmp_path / "log", models / "2", 100, world=World(moved=1.5), seconds=9 * 86_400)
    serve(tmp_path / "log", models / "2", 50)
    arguments = [f"--log={tmp_path / 'log'}", f"--model={models / 'champion'}"]
    assert "answers: 50 answers" in run(*arguments).stdout
    date = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 20 * 86_400))
    assert "answers: 150 answers" in run(*arguments, f"--since={date}").stdout
    done = run(*arguments, "--since=yesterday")
    assert done.returncode == 64
    assert done.stderr == "error: --since=yesterday: give 30m, 12h, 7d or 4w, a date (2026-11-27), or all\n"


def test_a_damaged_part_is_said_and_the_others_are_compared(tmp_path, models):
    serve(tmp_path / "log", models / "2", 150)
    part = min((tmp_path / "log").glob("answers-*"))
    part.write_bytes(part.read_bytes()[:1000])
    done = run(f"--log={tmp_path / 'log'}", f"--model={models / 'champion'}", "--since=all")
    assert done.returncode == 0
    assert re.search(
        rf"warn  answers: 100 answers.*1 damaged parts of the log are left out \({part.name}\)", done.stdout
    )


def test_what_is_wrong_is_said_in_one_line(tmp_path, models):
    log = tmp_path / "log"
    serve(log, models / "1", 40)
    champion, result = models / "champion", tmp_path / "result.json"
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "labels.txt").write_text("a\n")
    (tmp_path / "empty").mkdir()
    wrong = {
        r"40 of 1-\w{8}; give the --model that is served": [f"--log={log}", f"--model={champion}"],
        "no such folder; a server with a log makes it": [f"--log={tmp_path / 'none'}", f"--model={champion}"],
        r'--model=\S+/export3: no such folder. Did you mean "export[12]"': [
            f"--log={log}",
            f"--model={tmp_path}/export3",
        ],
        "the registry has no champion yet": [f"--log={log}", f"--model={tmp_path / 'empty' / 'champion'}"],
        "no exported model there": [f"--log={log}", f"--model={tmp_path / 'empty'}"],
        "reference.npz: no such file; an earlier version": [f"--log={log}", f"--model={tmp_path / 'old'}"],
        "which model is missing": [f"--log={log}"],
        "--log=DIR is missing": [f"--model={champion}"],
        "give the name of a page": [f"--log={log}", f"--model={champion}", "--output=drift.pdf"],
        "there is no folder /nowhere": [f"--log={log}", f"--model={models / '1'}", "--output=/nowhere/x.html"],
    }
    for message, arguments in wrong.items():
        done = run(*arguments, f"--result={result}")
        assert re.search(message, done.stderr), done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.returncode == 64
    assert json.loads(result.read_text())["outcome"] == "failed"
    (models / "1" / "reference.npz").write_bytes(b"no archive")
    done = run(f"--log={log}", f"--model={models / '1'}", f"--result={result}")
    assert (done.returncode, json.loads(result.read_text())["exit_code"]) == (65, 65)
    assert "reference.npz: damaged" in done.stderr


@pytest.mark.slow
def test_real_photos_by_a_real_model(tmp_path, shared_data):
    """Asks a backbone of ImageNet's weights with a random head: what it answers is consistent, and that is enough."""
    from trainer.models import HeadConfig
    from trainer.models.classifier import build_classifier
    from trainer.serving.export import export_classifier
    from trainer.serving.loading import find_model, load_model
    from trainer.serving.reference import write_reference

    photos = tmp_path / "photos"
    kept = {label: sorted((shared_data / "flowers" / label).iterdir()) for label in ("roses", "sunflowers")}
    for label, files in kept.items():
        (photos / label).mkdir(parents=True)
        for file in files[:120]:
            shutil.copy(file, photos / label)
    outcome = run_build(photos, tmp_path / "data", fractions=SplitFractions.parse("train:0.1,validation:0.1,test:0.8"))
    data = open_dataset(outcome.directory)
    export = tmp_path / "export"
    export_classifier(
        build_classifier(
            backbone="efficientnet_lite0", weights="imagenet", num_classes=2, height=96, width=96, head=HeadConfig(),
            seed=3,
        ),
        labels=data.manifest.labels, height=96, width=96, preprocess="lite", directory=export,
        also=[lambda folder: write_reference(folder, data, "test")],
    )  # fmt: skip
    assert damage(export) == []
    reference = read_reference(export)
    assert set(reference.facts) == set(FACTS)
    ask = load_model(find_model(str(export)))

    def serve_files(log: pathlib.Path, encoded: list[bytes]) -> None:
        written = AnswerLog(log, model=served_name(export), labels=data.manifest.labels)
        for image in encoded:
            answer, facts = ask([image]), inspect(image, PixelPolicy())
            written.add(
                probabilities=answer["probabilities"][0], features=answer["features"][0],
                facts=comparable_of(facts, image), seconds=time.time(),
            )  # fmt: skip
        written.close()

    # The photos of the reference themselves: all that is logged of them is what the reference says.
    records = list(data.read("test"))
    assert len(records) == len(reference.truth) > 150
    serve_files(tmp_path / "same", [(photos / record.source).read_bytes() for record in records])
    same = read_answers(tmp_path / "same")
    for name in FACTS:
        np.testing.assert_allclose(same.facts[name], reference.facts[name])
    np.testing.assert_allclose(same.features, reference.features, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(same.probabilities, reference.probabilities, atol=1e-4)

    others = [file.read_bytes() for files in kept.values() for file in files[120:]]
    serve_files(tmp_path / "log", others)
    done = run(f"--log={tmp_path / 'log'}", f"--model={export}")
    assert done.returncode == 0, done.stdout + done.stderr

    def dark(image: bytes) -> bytes:
        content = io.BytesIO()
        ImageEnhance.Brightness(Image.open(io.BytesIO(image)).convert("RGB")).enhance(0.25).save(content, "JPEG")
        return content.getvalue()

    serve_files(tmp_path / "dark", list(map(dark, others)))
    done = run(f"--log={tmp_path / 'dark'}", f"--model={export}")
    assert done.returncode == 65, done.stdout + done.stderr
    assert re.search("warn  facts: .* in brightness", done.stdout)
    pets = [file.read_bytes() for file in sorted((shared_data / "oxford_pets_100").rglob("*.jpg"))]
    serve_files(tmp_path / "pets", pets)
    assert run(f"--log={tmp_path / 'pets'}", f"--model={export}").returncode == 65
