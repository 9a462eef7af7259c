"""Tests whole passes in real processes: decisions, exit codes, the lock, and being killed at any moment."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

STAND_INS = pathlib.Path(__file__).parent / "stand_ins"
CONFIG = """
input: input
data: data
runs: runs
models: models
gate: {margin: 0.02, minimum_accuracy: 0.5}
"""
IMAGES = {f"image{number}": ("cat", "dog")[number % 2] for number in range(300)}


class World:
    """Holds a folder with a configuration, an input and whatever passes made of them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        (folder / "input").mkdir(parents=True)
        (folder / "retrain.yaml").write_text(CONFIG)

    def configure(self, text: str) -> None:
        (self.folder / "retrain.yaml").write_text(text)

    def input(self, *, right: int, labels: tuple[str, ...] = ("cat", "dog"), **more: object) -> None:
        spec = {"labels": labels, "images": IMAGES, "right": list(IMAGES)[:right], **more}
        (self.folder / "input" / "spec.json").write_text(json.dumps(spec))

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pass_with_stand_ins", f"--config={self.folder / 'retrain.yaml'}"],
            env={**os.environ, "PYTHONPATH": str(STAND_INS), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self) -> tuple[int, str, str]:
        process = self.start()
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def champion(self) -> str | None:
        link = self.models / "champion"
        return os.readlink(link) if link.is_symlink() else None

    def log(self) -> list[dict]:
        return [json.loads(line) for line in (self.models / "decisions.jsonl").read_text().splitlines()]

    def state(self) -> dict[str, object]:
        """Reads what must be the same however often a pass was killed: all but times and process numbers."""
        files = {
            str(file.relative_to(self.models)): file.read_bytes()
            for file in sorted(self.models.rglob("*"))
            if file.is_file() and file.name not in (".lock", "promotion.json", "decisions.jsonl")
        }
        log = [{k: v for k, v in record.items() if k not in ("time", "run", "dataset")} for record in self.log()]
        return {"champion": self.champion(), "files": files, "log": log}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_the_pass_itself_needs_neither_tensorflow_nor_beam():
    check = "import sys, retrain.main; sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'apache_beam')))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_first_pass_promotes_second_finds_nothing_changed(world):
    world.input(right=280)
    code, out, _ = world.run()
    assert code == 0
    assert "no champion to compare with" in out
    assert "$ python -m stand_in" in out
    assert world.champion() == "1"
    model = world.models / "champion"
    assert (model / "saved_model" / "saved_model.pb").exists()
    assert (model / "model_card.md").exists()
    assert json.loads((model / "promotion.json").read_text())["figures"]["accuracy"] == pytest.approx(280 / 300)

    starts = (next((world.folder / "runs").iterdir()) / "starts.log").read_text()
    code, out, _ = world.run()
    assert code == 99
    assert "nothing changed since" in out
    assert len(world.log()) == 1
    assert (next((world.folder / "runs").iterdir()) / "starts.log").read_text() == starts, "the trainer was not started"


def test_better_is_promoted_worse_is_not_and_the_log_says_why(world):
    world.input(right=280)
    world.run()
    world.input(right=295)
    code, out, _ = world.run()
    assert code == 0
    assert "90 % interval" in out
    assert world.champion() == "2"
    world.input(right=260)
    code, out, _ = world.run()
    assert code == 99
    assert "not promoted" in out
    assert "may be worse by more than the margin" in out
    assert world.champion() == "2"
    assert not (world.models / "3").exists()
    assert [record["decision"] for record in world.log()] == ["promoted", "promoted", "not promoted"]
    assert [(r["champion_before"], r["champion_after"]) for r in world.log()] == [(None, 1), (1, 2), (2, 2)]
    code, out, _ = world.run()
    assert code == 99
    assert "nothing changed since" in out
    assert "not promoted" in out
    assert len(world.log()) == 3


def test_below_the_floor_there_is_no_first_champion(world):
    world.input(right=100)
    code, out, _ = world.run()
    assert code == 99
    assert "below minimum_accuracy 0.5" in out
    assert world.champion() is None
    assert world.run()[0] == 99
    assert len(world.log()) == 1


def test_a_new_gate_judges_again_without_training_again(world):
    world.input(right=100)
    world.run()
    world.configure(CONFIG.replace("0.5", "0.3"))
    assert world.run()[0] == 0
    assert world.champion() == "1"
    assert len(list((world.folder / "runs").iterdir())) == 1


def test_a_roll_back_by_hand_stays(world):
    for right in (280, 290):
        world.input(right=right)
        world.run()
    link = world.models / "champion"
    link.unlink()
    link.symlink_to("1")
    assert world.run()[0] == 99
    assert world.champion() == "1"


def test_a_removed_champion_is_judged_again(world):
    world.input(right=280)
    world.run()
    (world.models / "champion").unlink()
    assert world.run()[0] == 0
    assert world.champion() == "2"


def test_new_class_is_left_out_of_the_comparison(world):
    world.input(right=280)
    world.run()
    images = IMAGES | {f"fox{number}": "fox" for number in range(20)}
    world.input(right=280, labels=("ant", "cat", "dog", "fox"), images=images)
    code, out, _ = world.run()
    assert code == 0
    assert "does not know (fox)" in out
    assert world.log()[1]["figures"]["pairs"] == 300


@pytest.mark.parametrize("code", [64, 65, 70, 75])
def test_a_failing_step_ends_the_pass_with_its_exit_code_and_publishes_nothing(world, code):
    world.input(right=280, fail=code)
    found, _, err = world.run()
    assert found == code
    assert err.strip().splitlines()[-1] == f"error: stand_in ended with exit code {code}; its own message stands above"
    assert "Traceback" not in err
    assert not (world.models / "decisions.jsonl").exists()


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def trainer_process(world):
    for log in (world.folder / "runs").glob("*/starts.log"):
        if text := log.read_text():
            return int(text.split()[-1])
    return None


def alive(process_id):
    try:
        state = pathlib.Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_second_pass_is_turned_away_while_the_first_runs(world):
    world.input(right=280)
    first = world.start(TRAIN_SECONDS="30")
    wait_for(lambda: trainer_process(world))
    began = time.monotonic()
    code, _, err = world.run()
    assert code == 75
    assert f"process {first.pid}" in err
    assert time.monotonic() - began < 10
    first.kill()
    first.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_pass_killed_outright_takes_its_command_along(world):
    world.input(right=280)
    process = world.start(TRAIN_SECONDS="60")
    child = wait_for(lambda: trainer_process(world))
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(child))
    assert world.run()[0] == 0


def test_sigterm_stops_the_command_and_says_run_again(world):
    world.input(right=280)
    process = world.start(TRAIN_SECONDS="60")
    child = wait_for(lambda: trainer_process(world))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "stopped by SIGTERM" in err
    assert not alive(child)
    assert world.run()[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("reached", ["published", "pointed", "line torn"])
def test_killed_between_the_steps_of_a_promotion(world, reached):
    """The three narrow gaps that random kills rarely hit, made by taking back what came after."""
    for right in (280, 295):
        world.input(right=right)
        world.run()
    whole = world.state()
    log = world.models / "decisions.jsonl"
    first, second = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + second[:50] if reached == "line torn" else first)
    if reached == "published":
        (world.models / "champion").unlink()
        (world.models / "champion").symlink_to("1")
    (world.models / ".staging-3").mkdir()
    assert world.run()[0] == 0
    assert world.state() == whole
    assert world.run()[0] == 99
    assert not list(world.models.glob(".staging*"))


def test_killed_at_any_moment_and_run_again_it_ends_in_the_same_place(tmp_path):
    """Two passes (a first model, a better one), each killed again and again at random moments."""

    def play(world, kills):
        generator = random.Random(7)
        for right in (280, 295):
            world.input(right=right)
            for _ in range(kills):
                process = world.start()
                try:
                    process.communicate(timeout=generator.uniform(0.1, 1.6))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
            wait_for(lambda: world.run()[0] in (0, 99))
        return world.state()

    calm = play(World(tmp_path / "calm"), kills=0)
    assert calm["champion"] == "2"
    assert len(calm["log"]) == 2
    stormy = play(World(tmp_path / "stormy"), kills=8)
    assert stormy == calm


@pytest.mark.slow
def test_a_changed_file_of_ones_own_is_another_training(world):
    world.input(right=290)
    world.configure(CONFIG + "recipe: ./mine.py\n")
    (world.folder / "mine.py").write_text("def recipe(facts): ...\n")
    assert world.run()[0] == 0
    assert "nothing changed" in world.run()[1]
    (world.folder / "mine.py").write_text("def recipe(facts): return 1\n")
    assert "nothing changed" not in world.run()[1]
    assert len(list((world.folder / "runs").iterdir())) == 2
