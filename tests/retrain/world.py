"""Holds a world for passes with stand-ins: a folder, its configuration, and what passes make of them."""

import json
import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[2]
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

    def __init__(self, folder: pathlib.Path, *, python: str = sys.executable) -> None:
        self.folder, self.python = folder, python
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
            [self.python, "-m", "pass_with_stand_ins", *flags],
            env={**os.environ, "PYTHONPATH": f"{STAND_INS}:{REPOSITORY}", **environment},
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
        places = ("time", "run", "pages", "dataset")
        log = [{k: v for k, v in record.items() if k not in places} for record in self.log()]
        return {"champion": self.champion(), "files": files, "log": log}
