"""Tests whole passes in real processes: decisions, exit codes, the lock, and being killed at any moment."""

import http.server
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from retrain import registry

STAND_INS = pathlib.Path(__file__).parent / "stand_ins"
CONFIG = """
input: input
data: data
runs: runs
models: models
gate: {margin: 0.02, minimum_accuracy: 0.5}
"""
IMAGES = {f"image{number}": ("cat", "dog")[number % 2] for number in range(300)}


_OF_ITS_TIME = (".lock", "promotion.json", "decisions.jsonl", "SHA256SUMS", "checks.log", "index.html")


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

    def start(self, *more: str, **environment: str) -> subprocess.Popen[str]:
        flags = [*more, f"--config={self.folder / 'retrain.yaml'}", f"--result={self.folder / 'result.json'}"]
        return subprocess.Popen(
            [sys.executable, "-m", "pass_with_stand_ins", *flags],
            env={**os.environ, "PYTHONPATH": str(STAND_INS), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *more: str) -> tuple[int, str, str]:
        process = self.start(*more)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def result(self) -> dict:
        return json.loads((self.folder / "result.json").read_text())

    def runs(self) -> list[pathlib.Path]:
        return [path for path in (self.folder / "runs").iterdir() if path.suffix != ".data"]

    def run_folder(self) -> pathlib.Path:
        return self.runs()[0]

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
            if file.is_file() and file.name not in _OF_ITS_TIME
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
    result = world.result()
    assert (result["outcome"], result["exit_code"]) == ("promoted", 0)
    assert result["versions"]["model"] == result["versions"]["champion_after"] == 1
    assert result["figures"]["accuracy"] == pytest.approx(280 / 300)
    assert "$ python -m stand_in" in out
    assert world.champion() == "1"
    model = world.models / "champion"
    assert (model / "saved_model" / "saved_model.pb").exists()
    assert (model / "model_card.md").exists()
    assert json.loads((model / "promotion.json").read_text())["figures"]["accuracy"] == pytest.approx(280 / 300)

    starts = (world.run_folder() / "starts.log").read_text()
    code, out, _ = world.run()
    assert code == 99
    assert "nothing changed since" in out
    assert (world.result()["outcome"], world.result()["exit_code"]) == ("unchanged", 99)
    assert len(world.log()) == 1
    assert (world.run_folder() / "starts.log").read_text() == starts, "the trainer was not started"


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
    assert "; it is worse" in out
    assert world.champion() == "2"
    assert not (world.models / "3").exists()
    assert world.result()["outcome"] == "not_promoted"
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


@pytest.mark.slow
def test_a_new_gate_judges_again_without_training_again(world):
    world.input(right=100)
    world.run()
    world.configure(CONFIG.replace("0.5", "0.3"))
    assert world.run()[0] == 0
    assert world.champion() == "1"
    assert len(world.runs()) == 1


@pytest.mark.slow
def test_a_roll_back_by_hand_stays(world):
    for right in (280, 290):
        world.input(right=right)
        world.run()
    link = world.models / "champion"
    link.unlink()
    link.symlink_to("1")
    assert world.run()[0] == 99
    assert world.champion() == "1"


@pytest.mark.slow
def test_a_removed_champion_is_judged_again(world):
    world.input(right=280)
    world.run()
    (world.models / "champion").unlink()
    assert world.run()[0] == 0
    assert world.champion() == "2"


@pytest.mark.slow
def test_new_class_is_left_out_of_the_comparison(world):
    world.input(right=280)
    world.run()
    images = IMAGES | {f"{new}{number}": new for new in ("ant", "fox") for number in range(20)}
    world.input(right=280, labels=("ant", "cat", "dog", "fox"), images=images)
    code, out, _ = world.run()
    assert code == 0
    assert "does not know (ant, fox)" in out
    assert world.log()[1]["figures"]["pairs"] == 300


NEW = {f"new{number}": ("cat", "dog")[number % 2] for number in range(40)}


def start_over(world, **more):
    """Lets a pass promote a first model, and gives the next one other images."""
    world.input(right=280)
    assert world.run()[0] == 0
    world.input(right=280, **more)


def arrivals(*, p_value=0.6, separable=0.5, doubted=0):
    return {"new": 40, "compared": 40, "pixels": {"distance": 1.0, "p_value": p_value}, "separable": separable,
            "doubted": [doubted, 40], "doubted_before": [3, 300]}  # fmt: skip


CATS = {image: label for image, label in IMAGES.items() if label == "cat"}
FEWER = dict(list(IMAGES.items())[:200])
SWAPPED = IMAGES | {f"image{number}": "dog" for number in range(0, 20, 2)}
UNLIKE = {"images": IMAGES | NEW, "arrivals": arrivals(p_value=0.001, separable=0.9)}
WRONG = {"images": IMAGES | NEW, "arrivals": arrivals(doubted=20)}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"images": CATS, "labels": ("cat",)}, "labels: gone: dog"),
        pytest.param(
            {"images": FEWER},
            "lost images: 100 of 300 images of the champion's dataset are gone",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"images": SWAPPED}, "relabelled: 10 images have another label: 10 from cat to dog", marks=pytest.mark.slow
        ),
        (UNLIKE, "pixels: 40 new images beside others of their label: a classifier tells them apart"),
        pytest.param(WRONG, "label noise: 20 of 40 new images have a label that looks wrong", marks=pytest.mark.slow),
    ],
    ids=["gone", "lost", "relabelled", "unlike", "wrong"],
)
def test_bad_data_are_held_and_nothing_is_trained(world, more, told):
    start_over(world, **more)
    runs = world.runs()
    code, _, err = world.run()
    assert code == 65
    assert err.startswith("error: held: ")
    assert told in err
    assert world.runs() == runs
    assert world.champion() == "1"
    assert world.log()[1]["decision"] == "held"
    assert world.log()[1]["champion_after"] == 1
    result = world.result()
    assert (result["outcome"], result["exit_code"], result["versions"]["champion_after"]) == ("held", 65, 1)
    assert told in result["reasons"][0]
    by_hand = {"time": "", "decision": "pruned", "reasons": [""], "champion_before": 1, "champion_after": 1}
    registry.append_decision(world.models, by_hand)
    code, _, err = world.run()  # the next night
    assert code == 65
    assert world.result()["outcome"] == "held"
    assert "nothing changed since" in err
    assert len(world.log()) == 3


@pytest.mark.slow
def test_held_data_are_accepted_by_their_content(world):
    start_over(world, images=dict(list(IMAGES.items())[:200]))
    _, _, err = world.run()
    (content,) = re.findall(r"data_gate: \{accept: \[(\w+)\]\}", err)
    (result,) = [json.loads(path.read_text()) for path in (world.folder / "runs").glob("*.data/gate-data.json")
                 if json.loads(path.read_text())["outcome"] == "hold"]  # fmt: skip
    assert result["dataset"]["content"] == content
    assert result["reference"] == "1.0.0"
    world.configure(CONFIG + f"data_gate: {{accept: [{content}]}}\n")
    code, out, _ = world.run()
    assert code in (0, 99)
    assert "data gate, hold: lost images" in out
    assert world.log()[-1]["data"]["lost images"] == "hold"


@pytest.mark.slow
def test_a_label_that_is_named_may_go(world):
    left = {image: "cat" for image, label in IMAGES.items() if label == "cat"}
    start_over(world, images=left, labels=("cat",))
    world.configure(CONFIG + "data_gate: {removed_labels: [dog], lost: 0.6}\n")
    assert world.run()[0] in (0, 99)


@pytest.mark.slow
def test_images_are_not_looked_at_where_the_configuration_says_so(world):
    world.configure(CONFIG + "check: false\n")
    start_over(world, images=IMAGES | NEW, arrivals="would end the pass")
    assert world.run()[0] in (0, 99)
    assert not list((world.folder / "runs").glob("*/check/checks.log"))


@pytest.mark.slow
def test_the_check_is_run_once_against_the_champions_dataset(world):
    world.configure(CONFIG + "check: {images: 100}\n")
    start_over(world, images=IMAGES | NEW)
    world.run()
    world.run()
    logs = sorted(path.read_text() for path in (world.folder / "runs").glob("*/check/checks.log"))
    assert [len(log.splitlines()) for log in logs] == [1, 1]
    assert sum(f"--against={world.folder}/data/versions/1.0.0" in log for log in logs) == 1
    assert all("--recipe=photos" in log and "--images=100" in log for log in logs)


@pytest.mark.parametrize("code", [64, 65, 70, 75])
def test_a_failing_step_ends_the_pass_with_its_exit_code_and_publishes_nothing(world, code):
    world.input(right=280, fail=code)
    found, _, err = world.run()
    assert found == code
    assert err.strip().splitlines()[-1] == f"error: stand_in ended with exit code {code}; its own message stands above"
    assert "Traceback" not in err
    assert not (world.models / "decisions.jsonl").exists()
    assert (world.result()["outcome"], world.result()["exit_code"]) == ("failed", code)
    assert f"exit code {code}" in world.result()["reasons"][0]


def test_a_damaged_champion_is_named_and_a_roll_back_takes_the_one_before(world):
    for right in (280, 295):
        world.input(right=right)
        assert world.run()[0] == 0
    (world.models / "2" / "labels.txt").write_text("cat\n")
    world.input(right=296)
    code, _, err = world.run()
    assert code == 65
    assert "models/2 is damaged: labels.txt is not what was published; put its files back, or let python -m " in err
    assert "Traceback" not in err
    back = subprocess.run(
        [sys.executable, "-m", "retrain.models", "rollback", "--why=damaged", f"--models={world.models}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert back.returncode == 0, back.stderr
    assert world.champion() == "1"
    assert world.run()[0] == 0
    assert world.champion() == "3"


@pytest.mark.slow
def test_a_tree_that_was_moved_goes_on(tmp_path):
    world = World(tmp_path / "here")
    world.configure(CONFIG + "recipe: ./mine.py\n")
    (world.folder / "mine.py").write_text("def recipe(facts): ...\n")
    world.input(right=280)
    assert world.run()[0] == 0
    (tmp_path / "here").rename(tmp_path / "there")
    moved = World.__new__(World)
    moved.folder, moved.models = tmp_path / "there", tmp_path / "there" / "models"
    assert moved.run()[0] == 99
    moved.input(right=290)
    assert moved.run()[0] == 0
    assert moved.log()[-1]["data"]["lost images"] == "ok"  # compared with the champion's dataset, where it is now


@pytest.mark.slow
def test_a_challenger_waits_for_approval_where_that_is_wanted(world):
    world.configure(CONFIG + "approval: manual\n")
    world.input(right=280)
    code, out, _ = world.run()
    assert code == 99
    assert f"models/1 waits for approval: python -m retrain.models promote 1 --models={world.models} --why=" in out
    assert world.champion() is None
    assert (world.result()["outcome"], world.result()["versions"]["model"]) == ("waiting", 1)
    assert world.run()[0] == 99
    assert world.result()["outcome"] == "unchanged"
    subprocess.run(
        [sys.executable, "-m", "retrain.models", "promote", "1", "--why=looked at", f"--models={world.models}"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert world.champion() == "1"
    assert world.run()[0] == 99


@pytest.mark.slow
def test_a_pass_step_by_step_ends_as_one_at_once(tmp_path):
    """As a scheduler takes it that gives each step a task of its own."""
    worlds = World(tmp_path / "steps"), World(tmp_path / "once")
    for right in (280, 295):
        for world in worlds:
            world.input(right=right)
        for step in ("build", "check", "train"):
            assert worlds[0].run(f"--until={step}")[0] == 0
            assert worlds[0].result()["outcome"] == "unfinished"
        assert len(worlds[0].runs()) == len({280, right})
        assert [world.run()[0] for world in worlds] == [0, 0]
    assert worlds[0].state() == worlds[1].state()
    assert worlds[0].run("--until=build")[0] == 99


@pytest.mark.slow
def test_the_same_data_are_checked_again_where_the_champion_is_another_one(world):
    for right, images in ((280, IMAGES), (295, IMAGES | NEW)):
        world.input(right=right, images=images)
        assert world.run()[0] == 0
    world.input(right=250, images=IMAGES | NEW)
    world.run()
    back = [sys.executable, "-m", "retrain.models", "rollback", "--why=x", f"--models={world.models}"]
    subprocess.run(back, check=True, capture_output=True)
    world.configure(CONFIG.replace("0.02", "0.03"))  # judges anew
    world.run()
    logs = [path.read_text().splitlines() for path in (world.folder / "runs").glob("*/check/checks.log")]
    (twice,) = [log for log in logs if len(log) == 2]
    assert ["/versions/1.0.1" in twice[0], "/versions/1.0.0" in twice[1]] == [True, True]


@pytest.mark.slow
def test_hooks_are_told_and_one_that_fails_changes_nothing(world):
    told = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    world.configure(
        CONFIG
        + f"""
on_promote: ['cat > {world.folder}/told.json; echo $RETRAIN_OUTCOME', 'exit 3', 'http://127.0.0.1:9/nobody']
on_reject: ['http://127.0.0.1:{server.server_port}/hook']
"""
    )
    world.input(right=280)
    code, out, err = world.run()
    assert code == 0
    assert json.loads((world.folder / "told.json").read_text()) == world.result()
    assert out.splitlines()[-1] == "promoted"
    assert "warning: on_promote: exit 3: ended with exit code 3" in err
    assert "warning: on_promote: http://127.0.0.1:9/nobody: " in err
    world.input(right=200)
    assert world.run()[0] == 99
    server.shutdown()
    assert told == [world.result()]
    assert told[0]["outcome"] == "not_promoted"


@pytest.mark.slow
def test_a_command_that_was_pre_empted_is_run_again_within_the_pass(world):
    world.configure(CONFIG + "retries: 2\nretry_seconds: 0\n")
    world.input(right=280, fail=75, times=2)
    code, out, _ = world.run()
    assert code == 0, out
    assert out.count("ended with exit code 75; again in 0 s") == 2
    world.input(right=281, fail=64)
    assert world.run()[0] == 64


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
    assert len(world.runs()) == 2
