"""Tests trainer.main as a user runs it: real processes, real kills, wrong flags."""

import dataclasses
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.format.reference import read_reference
from pipeline.format.sums import damage
from pipeline.predictions import read_predictions
from tests import datasets
from tests.trainer.commands import ROOT, assert_same_end, best_weights, command, kill_and_rerun, run, training_flags
from trainer.report.measures import of_truth
from trainer.rundir import load_run
from trainer.serving.answers import predict_split
from trainer.serving.forms import EXPORTED
from trainer.serving.signature import load_signature


def test_a_run_holds_everything_and_says_where(finished, tiny_data):
    workdir, result = finished
    assert "test: accuracy" in result.stdout
    assert "Traceback" not in result.stderr
    predictions = ["predictions-test.jsonl", "predictions-test.npz", "predictions-validation.npz"]
    tables = ["config.json", "metrics.jsonl", "metrics.csv", "result.json", *predictions, "provenance.json"]
    exports = [f"export/{name}" for name in ("saved_model/saved_model.pb", "model.keras", "model.tflite", "labels.txt")]
    for name in [*tables, *exports, "report.html", "model_card.md"]:
        assert (workdir / name).stat().st_size > 0, name
    test = json.loads((workdir / "result.json").read_text())["splits"]["test"]
    rows = [json.loads(line) for line in (workdir / "predictions-test.jsonl").read_text().splitlines()]
    assert len(rows) == test["examples"] == 13
    assert np.mean([row["label"] == row["predicted"] for row in rows]) == pytest.approx(test["accuracy"])
    assert np.trace(test["confusion"]) == sum(entry["correct"] for entry in test["per_class"])


def test_a_finished_run_returns_at_once(finished, tiny_data):
    workdir, _ = finished
    stamp = (workdir / "result.json").stat().st_mtime_ns
    start = time.monotonic()
    result = run(*training_flags(tiny_data, workdir))
    assert result.returncode == 0
    assert result.stdout.startswith("nothing to do")
    assert "tensorflow" not in result.stderr
    assert time.monotonic() - start < 60
    assert (workdir / "result.json").stat().st_mtime_ns == stamp


def test_a_dataset_is_the_same_wherever_it_lies(finished, tiny_data, tmp_path):
    workdir, _ = finished
    moved = shutil.copytree(tiny_data.path, tmp_path / "moved")
    result = run(*training_flags(dataclasses.replace(tiny_data, path=f"{moved}/../moved/"), workdir))
    assert (result.returncode, result.stdout.partition(":")[0]) == (0, "nothing to do"), result.stderr


@pytest.mark.slow
def test_another_configuration_or_dataset_in_the_same_workdir_is_refused_with_a_diff(finished, tiny_data, tmp_path):
    workdir, _ = finished
    result = run(*training_flags(tiny_data, workdir, "--set=phases.1.lr_max=0.002"))
    assert result.returncode == 64
    assert "phases.1.lr_max: 0.001 → 0.002" in result.stderr
    assert (recipe := f"--recipe={workdir / 'config.json'}") in result.stderr
    assert run(f"--data={tiny_data.path}", recipe, f"--workdir={workdir}").returncode == 0
    records = datasets.coloured_records(20, classes=2, seed=9)
    other = datasets.write_dataset(tmp_path, {"train": records}, ["black", "white"])
    result = run(*training_flags(other, workdir))
    assert result.returncode == 64
    assert 'labels: ["red", "green", "blue"] → ["black", "white"]' in result.stderr
    assert "Traceback" not in result.stderr


def test_an_exported_model_scores_as_the_run_did(finished, tiny_data, tmp_path):
    workdir, _ = finished
    output = tmp_path / "predictions.jsonl"
    flags = [f"--model={workdir / 'export'}", f"--data={tiny_data.path}", "--split=test", f"--output={output}"]
    result = run(*flags, module="trainer.evaluate")
    assert result.returncode == 0, result.stderr
    ours = [json.loads(line) for line in output.read_text().splitlines()]
    theirs = [json.loads(line) for line in (workdir / "predictions-test.jsonl").read_text().splitlines()]
    for a, b in zip(ours, theirs, strict=True):
        assert (a["id"], a["label"], a["predicted"]) == (b["id"], b["label"], b["predicted"])
        assert a["probability"] == pytest.approx(b["probability"], abs=1e-5)


def test_an_export_keeps_what_the_run_answered_to_the_images_that_it_was_evaluated_on(finished, tiny_data):
    workdir, _ = finished
    reference, found = read_reference(workdir / "export"), read_predictions(workdir, "test")
    assert (reference.split, list(reference.labels)) == ("test", list(tiny_data.manifest.labels))
    images = [(record.height * record.width, record.label) for record in tiny_data.read("test")]
    np.testing.assert_array_equal(np.stack([reference.facts["area"], reference.truth], axis=1), images)
    np.testing.assert_allclose(reference.probabilities, np.exp(found.log_probabilities), atol=1e-3)
    assert reference.features.shape[0] == 13
    assert set(reference.facts) == {"area", "aspect"}  # no table of a build says more of these
    assert damage(workdir / "export") == []


def test_no_command_puts_its_results_in_the_place_of_others(finished, tiny_data, tmp_path):
    """An export takes the place of a folder as a whole: given a run, or a folder of photos, it would delete that."""
    workdir, _ = finished
    photos = tmp_path / "photos"
    (photos / "roses").mkdir(parents=True)
    (photos / "roses" / "1.jpg").touch()
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "report.html").write_text("mine")
    before = {path for folder in (workdir, tmp_path) for path in folder.rglob("*")}
    for given, says in ((workdir, "a training run"), (photos, "a folder of images"), (notes, "report.html lies there")):
        for module, flags in (("trainer.export", [workdir]), ("trainer.check", [tiny_data.path])):
            done = run(*map(str, flags), f"--output={given}", module=module)
            assert done.returncode == 64, (module, given)
            assert f"error: --output={given}: " in done.stderr
            assert says in done.stderr
    assert {path for folder in (workdir, tmp_path) for path in folder.rglob("*")} == before
    assert {path.name for path in (workdir / "export").iterdir()} <= EXPORTED


def test_the_files_of_a_run_say_what_it_printed(finished):
    workdir, result = finished
    done = run(f"--run={workdir}", module="trainer.evaluate")
    assert done.returncode == 0, done.stderr
    test = json.loads((workdir / "result.json").read_text())["splits"]["test"]
    told = dict(line.split()[:2] for line in done.stdout.splitlines() if line.startswith(("  accuracy", "  log-loss")))
    assert told == {"accuracy": f"{test['accuracy']:.4f}", "log-loss": f"{test['loss']:.4f}"}
    assert f"test: accuracy {told['accuracy']}, loss {told['log-loss']}, 13 images" in result.stdout


@pytest.mark.slow
def test_the_model_is_asked_about_another_dataset(finished, tiny_data, tmp_path):
    """The same images under another order of labels, one of them of a label that the model has never seen."""
    workdir, _ = finished
    names = [*reversed(tiny_data.manifest.labels), "unknown"]
    turned = [
        dataclasses.replace(record, label=names.index(tiny_data.manifest.labels[record.label]) if number else 3)
        for number, record in enumerate(tiny_data.read("test"))
    ]
    datasets.write_dataset(tmp_path / "other", {"fresh": turned}, names)
    output = tmp_path / "figures.json"
    flags = [f"--run={workdir}", f"--data={tmp_path / 'other'}", "--split=fresh", f"--output={output}"]
    done = run(*flags, module="trainer.evaluate")
    assert done.returncode == 0, done.stderr
    found = read_predictions(workdir, "test")
    right = found.correct.copy()
    right[0] = False
    assert json.loads(output.read_text())["accuracy"] == right.mean()
    told = json.loads(output.read_text())
    np.testing.assert_allclose(told["log_loss"], -of_truth(found)[1:].mean(), rtol=1e-3)
    assert told["temperature"] == found.temperature


@pytest.mark.slow
def test_mirrored_answers_are_the_export_s_means(finished, tiny_data):
    workdir, _ = finished
    found = predict_split(*load_run(workdir), tiny_data, "test", mirrored=True)
    signature = load_signature(workdir / "export")
    pictures = [np.asarray(Image.open(io.BytesIO(record.image))) for record in tiny_data.read("test")]
    expected = np.mean([signature([_png(p) for p in several])["probabilities"]
                        for several in (pictures, [p[:, ::-1] for p in pictures])], axis=0)  # fmt: skip
    np.testing.assert_allclose(np.exp(found.log_probabilities), expected, atol=0.02)  # Pillow's JPEG decoder, and ours
    assert list(found.ids) == [record.id for record in tiny_data.read("test")]


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def finished_on_two(tiny_data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two") / "run"
    result = run(*training_flags(tiny_data, workdir), replicas=2)
    assert result.returncode == 0, result.stderr
    assert "2 replicas on CPU" in result.stderr
    return workdir


@pytest.mark.parametrize(
    ("replicas", "kills"),
    [(1, 1), pytest.param(1, 10, marks=pytest.mark.slow), pytest.param(2, 10, marks=pytest.mark.slow)],
)
def test_killed_at_random_and_run_again_ends_in_the_same_place(request, tiny_data, tmp_path, replicas, kills):
    expected = request.getfixturevalue("finished")[0] if replicas == 1 else request.getfixturevalue("finished_on_two")
    result = kill_and_rerun(training_flags(tiny_data, tmp_path / "run"), kills=kills, seed=kills, replicas=replicas)
    assert result.returncode == 0, result.stderr
    assert_same_end(tmp_path / "run", expected)


@pytest.mark.slow
def test_a_batch_rounded_up_for_two_replicas_stays_so_when_one_goes_on(tiny_data, tmp_path):
    """Started on two replicas, killed in the second phase, ended on one."""
    flags = training_flags(tiny_data, tmp_path / "run", "--set=batch_size=7", "--set=phases.1.duration=10ep")
    with subprocess.Popen(
        command(*flags, replicas=2), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        log = ""
        for line in process.stderr:
            log += line
            if "phase all: 10ep = 50 steps of 8" in line:
                break
        until = time.monotonic() + 60  # the state is written while training goes on
        while not (tmp_path / "run" / "checkpoints" / "state" / "checkpoint").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert "batch_size=7 cannot be shared out equally to 2 replicas: it is 8 now" in log
    result = run(*flags)
    assert result.returncode == 0, result.stderr
    assert "resuming phase all" in result.stderr
    assert "1 replica on CPU" in result.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["asked_batch_size"], config["recipe"]["batch_size"]) == (7, 8)


@pytest.mark.slow
def test_sigterm_saves_and_exits_75_and_the_rerun_goes_on(tiny_data, tmp_path):
    long = "--set=phases.1.duration=2000ep"
    with subprocess.Popen(
        command(*training_flags(tiny_data, tmp_path / "run", long)), cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if " all 1/" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 75
    assert "run the same command again" in rest
    assert "Traceback" not in rest
    again = subprocess.Popen(
        command(*training_flags(tiny_data, tmp_path / "run", long)), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    with again:
        assert any("resuming phase all at step" in line for line in again.stderr)
        again.kill()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data=/nowhere", "--workdir=x"], "no such directory"),
        (["--data=.", "--workdir=x"], "not a published dataset"),
        (["--dta=.", "--workdir=x"], 'unknown flag --dta. Did you mean "--data"?'),
        (["--run=x"], "--data is missing: python -m trainer.main DATA --run=RUN"),
        (["."], "--run is missing: python -m trainer.main DATA --run=RUN"),
        ([".", "--run=x", "--batch_size=8"], "give --set=batch_size=8"),
        ([".", "--run=x", "--epochs=8"], "give --set=phases.1.duration=8ep"),
        ([".", "--run=x", "--epochs", "8"], "give --set=phases.1.duration=10ep"),
        (["--data=.", "--workdir=x", "--strategy=gpu"], "--strategy"),
        (["--data=.", "--workdir=x", "stray"], '"stray" stands for --data, which is given, too'),
        ([".", "stray", "--run=x"], 'unexpected argument "stray"'),
    ],
)
def test_wrong_flags_cost_a_line_and_exit_64(flags, message):
    result = run(*flags)
    assert result.returncode == 64
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert not os.path.exists(ROOT / "x")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recipe=phots"], 'Did you mean "photos"'),
        (["--tpu=local"], "--tpu=local: no TPU on this machine"),
        (["--strategy=tpu"], "--tpu=local: no TPU on this machine"),
        (["--strategy=multiworker"], "--strategy=multiworker needs the environment variable TF_CONFIG"),
        (["--tpu=grpc://127.0.0.1:9"], "give a place on gs://, which all of them see"),
        (["--tpu=my-tpu"], "--tpu=my-tpu: this machine is no host of a TPU"),
        (["--set=phases.1.lr=3"], 'Did you mean "lr_'),
        (["--cache=device"], "--cache=device: rotation=10 cannot be done"),
    ],
)
def test_wrong_values_cost_a_line_and_exit_64(tiny_data, tmp_path, more, message):
    result = run(*training_flags(tiny_data, tmp_path / "run"), *more)
    assert result.returncode == 64, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_data_that_cannot_be_trained_on_is_exit_65(tmp_path):
    records = datasets.coloured_records(5, classes=1)
    one_class = datasets.write_dataset(tmp_path / "one", {"train": records}, ["only"])
    result = run(*training_flags(one_class, tmp_path / "run"))
    assert result.returncode == 65
    assert "one label only (only)" in result.stderr
    no_train = datasets.write_dataset(tmp_path / "none", {"test": records}, ["a", "b"])
    result = run(*training_flags(no_train, tmp_path / "run"))
    assert result.returncode == 65
    assert "no examples in split train" in result.stderr


@pytest.mark.slow
def test_a_damaged_record_is_named_and_can_be_left_out(tmp_path):
    records = datasets.coloured_records(24, classes=3)
    data = datasets.write_dataset(tmp_path / "data", {"train": records, "test": records[:6]}, ["red", "green", "blue"])
    # As builders count labels, so that nobody reads records before they are trained on.
    counts = {
        split: {"labels": dict.fromkeys(data.manifest.labels, 8 if split == "train" else 2)}
        for split in data.manifest.splits
    }
    (pathlib.Path(data.path) / "statistics.json").write_text(json.dumps({"splits": counts}))
    shard = pathlib.Path(data.shard_paths("train")[1])
    content = bytearray(shard.read_bytes())
    content[100] ^= 0xFF  # in the first record's payload
    shard.write_bytes(bytes(content))
    result = run(*training_flags(data, tmp_path / "run"))
    assert result.returncode == 65, result.stderr
    assert f"{shard.name}" in result.stderr
    assert "--skip_bad_records" in result.stderr
    assert "Traceback" not in result.stderr
    result = run(*training_flags(data, tmp_path / "run2"), "--skip_bad_records")
    assert result.returncode == 0, result.stderr
    assert "left out 1 damaged records" in result.stderr
    assert json.loads((tmp_path / "run2" / "result.json").read_text())["splits"]["test"]["examples"] == 6


@pytest.mark.slow
def test_a_finished_run_is_extended_as_if_it_had_been_that_long_from_the_start(finished, tiny_data, tmp_path):
    workdir, _ = finished
    longer = shutil.copytree(workdir, tmp_path / "longer")
    flags = training_flags(tiny_data, longer, "--extend=2ep")
    assert (result := run(*flags)).returncode == 0, result.stderr
    rows = [json.loads(line) for line in (longer / "metrics.jsonl").read_text().splitlines()]
    assert {row["phase"]: row["epoch"] for row in rows} == {"head": 2, "all": 4, "all+2ep": 6}
    assert rows[: len(rows) * 4 // 6] == [
        json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    again = run(*flags)
    assert (again.returncode, again.stdout.partition(":")[0]) == (0, "nothing to do"), again.stderr
    whole = tmp_path / "whole"
    settings = [f"--recipe={longer / 'config.json'}", f"--data={tiny_data.path}", f"--workdir={whole}"]
    assert (result := run(*settings)).returncode == 0, result.stderr
    expected, found = best_weights(whole), best_weights(longer)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    refused = run(*training_flags(tiny_data, longer))
    assert refused.returncode == 64
    assert "phases" in refused.stderr


@pytest.mark.parametrize("text", ["5", "0ep", "10%", "ep"])
def test_an_extension_is_a_duration(finished, tiny_data, text):
    workdir, _ = finished
    result = run(*training_flags(tiny_data, workdir, f"--extend={text}"))
    assert result.returncode == 64
    assert f"--extend={text}: " in result.stderr
    assert (workdir / "_SUCCESS").exists()


@pytest.mark.slow
def test_a_second_command_on_a_live_run_ends_with_75_and_the_first_is_not_disturbed(tiny_data, tmp_path):
    settings = ["--set=phases.1.duration=60ep"]
    flags = training_flags(tiny_data, tmp_path / "run", *settings)
    with subprocess.Popen(command(*flags), cwd=ROOT, stderr=subprocess.PIPE, text=True) as first:
        for line in first.stderr:
            if " all 1/" in line:
                break
        second = run(*flags)
        errors = first.communicate(timeout=600)[1]
    assert second.returncode == 75
    assert f"process {first.pid} on " in second.stderr
    assert "Traceback" not in second.stderr
    assert first.returncode == 0, errors
    alone = run(*training_flags(tiny_data, tmp_path / "alone", *settings))
    assert alone.returncode == 0, alone.stderr
    for name, value in best_weights(tmp_path / "alone").items():
        assert (best_weights(tmp_path / "run")[name] == value).all(), name
    for name in ("metrics.jsonl", "result.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
