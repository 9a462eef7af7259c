"""Holds a world for quickstarts with stand-ins: a folder of photos, and beside it what comes of them."""

import json
import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[3]
STAND_INS = pathlib.Path(__file__).parent / "stand_ins"


class World:
    """Holds photos in a folder, and beside it what quickstarts have made."""

    def __init__(self, folder: pathlib.Path, *, classes: int = 2, each: int = 100) -> None:
        self.folder, self.photos, self.made = folder, folder / "photos", folder / "photos-model"
        for label in range(classes):
            self.add(f"class{label}", each)
        self.spec(head=0.6, tuned=0.9)

    def add(self, label: str, count: int, *, first: int = 0) -> None:
        (self.photos / label).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            (self.photos / label / f"{number}.jpg").touch()

    def spec(self, **values: object) -> None:
        (self.folder / "spec.json").write_text(json.dumps(values))

    def start(self, *flags: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        paths = f"{REPOSITORY}:{STAND_INS}"
        return subprocess.Popen(
            [sys.executable, "-m", "quickstart_with_stand_ins", "photos", *flags],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": paths,
                "QUICK_SPEC": str(self.folder / "spec.json"),
                "XDG_CACHE_HOME": str(self.folder),
            },  # without what runs models in a browser: stand-ins make none
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    def run(self, *flags: str) -> tuple[int, str, str]:
        process = self.start(*flags)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def model(self) -> str:
        """Names the model that is taken: `1.0.0/photos-head`."""
        return os.path.relpath((self.made / "model").resolve().parent, (self.made / "runs").resolve())

    def state(self) -> dict[str, object]:
        """Reads what must be the same however often a quickstart was killed: all but times and process numbers."""
        files = {
            str(path.relative_to(self.made)): path.read_bytes()
            for folder in ("data/versions", "runs")
            for path in sorted((self.made / folder).rglob("*"))
            if path.is_file() and path.name != "starts.log"
        }
        decisions = [
            (one["taken"], one["text"]) for one in json.loads((self.made / "quickstart.json").read_text())["decisions"]
        ]
        return {"model": self.model(), "files": files, "decisions": decisions}
