"""Tests passes whose runs and models lie in a store, as emulators play it: no disk in common, no links, no locks."""

import subprocess
import time
import uuid

import pytest

from pipeline.format import storage
from pipeline.format.sums import damage
from retrain import ledger, registry
from tests.retrain.world import CONFIG, World


class StoreWorld(World):
    """Holds a world whose runs and models lie in a store."""

    def __init__(self, folder, store):
        super().__init__(folder)
        self.store = f"{store}/{uuid.uuid4().hex}"
        self.configure(
            CONFIG.replace("runs: runs", f"runs: {self.store}/runs").replace(
                "models: models", f"models: {self.store}/models"
            )
        )

    @property
    def root(self):
        return f"{self.store}/models"


@pytest.fixture(params=["gcs", "s3"])
def world(request, tmp_path):
    return StoreWorld(tmp_path, request.getfixturevalue(request.param))


@pytest.mark.slow
def test_a_story_of_passes(world):
    world.input(right=280)
    code, out, err = world.run()
    assert code == 0, out + err
    assert registry.champion(world.root).path == f"{world.root}/1"
    assert storage.read(f"{world.root}/serving/stand-in/1/saved_model.pb") == b"graph"
    assert "first model" in storage.read_text(f"{world.root}/1/model_card.md")
    code, out, _ = world.run()
    assert (code, world.result()["outcome"]) == (99, "unchanged")

    world.input(right=295)
    assert world.run()[0] == 0
    world.input(right=250)
    assert world.run()[0] == 99
    assert [record["decision"] for record in ledger.decisions(world.root)] == ["promoted", "promoted", "not promoted"]
    assert registry.champion(world.root).number == 2
    page = storage.read_text(f"{world.root}/index.html")
    assert page.count("<circle") == 3
    assert "2/gate-model.html" in page

    storage.write_atomically(f"{world.root}/2/labels.txt", "cat\n")
    world.input(right=299)
    code, _, err = world.run()
    assert code == 65
    assert "models/2 is damaged: labels.txt is not what was published" in err
    done = subprocess.run(
        [world.python, "-m", "retrain.models", "rollback", "--why=damaged", f"--models={world.root}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert registry.champion(world.root).number == 1
    assert world.run()[0] == 0


@pytest.mark.slow
def test_a_second_pass_waits_for_its_turn_and_a_killed_one_is_taken_over(world):
    world.input(right=280)
    first = world.start(TRAIN_SECONDS="30")
    for _ in range(300):
        if storage.exists(f"{world.root}/owners"):
            break
        time.sleep(0.1)
    code, _, err = world.run()
    assert code == 75
    assert f"process {first.pid} on" in err
    assert "runs a pass of this registry already" in err
    first.kill()
    first.communicate()
    code, out, err = world.run()
    assert code == 0, out + err
    assert registry.champion(world.root).number == 1


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_ends_in_the_same_place(world):
    for right in (280, 295):
        world.input(right=right)
        for moment in (0.3, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2):
            process = world.start()
            try:
                process.communicate(timeout=moment)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        code, out, err = world.run()
        assert code in (0, 99), out + err
    assert [model.number for model in registry.models(world.root)] == [1, 2]
    assert [damage(model.path) for model in registry.models(world.root)] == [[], []]
    assert registry.champion(world.root).number == 2
    assert [record["decision"] for record in ledger.decisions(world.root)] == ["promoted", "promoted"]
