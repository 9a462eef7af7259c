"""Tests the job that Dataflow would get: translated by its runner, staged into an emulated store, never run."""

import base64
import bz2
import pathlib
import re
import subprocess
import tempfile
import uuid

import pytest
from apache_beam.portability.api import beam_runner_api_pb2 as runner_api

from pipeline.format import storage
from tests.beam_jobs.image_folders import make_folder

PYTHON = pathlib.Path(__file__).resolve().parents[1] / ".venv-dataflow/bin/python"
IMAGE = "example.com/image:1"


def unpickled_text(payload: bytes) -> bytes:
    """Returns what a pickle of Beam holds, as it stands, without running it."""
    return bz2.decompress(base64.b64decode(payload))


@pytest.fixture
def job(gcs, tmp_path) -> runner_api.Pipeline:
    """Translates a build from a bucket to a bucket."""
    if not PYTHON.exists():
        pytest.skip("no .venv-dataflow: make .venv-dataflow")
    make_folder(tmp_path / "photos", images=4)
    root = f"{gcs}/{uuid.uuid4().hex}"
    for path in (tmp_path / "photos").rglob("*.*"):
        storage.write_atomically(f"{root}/photos/{path.parent.name}/{path.name}", path.read_bytes())
    options = [
        f"--input={root}/photos",
        f"--output={root}/data",
        "--runner=DataflowRunner",
        "--project=my-project",
        "--region=us-central1",
        f"--temp_location={root}/tmp",
        f"--staging_location={root}/staging",
        f"--template_location={root}/template.json",
        f"--sdk_container_image={IMAGE}",
    ]
    command = [str(PYTHON), "-m", "beam_jobs.build_tfrecords", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote the job to {root}/template.json; nothing was built\n"
    (staged,) = storage.list_folder(f"{root}/staging")
    return runner_api.Pipeline.FromString(storage.read(f"{root}/staging/{staged.name}/pipeline.pb"))


@pytest.mark.slow
def test_the_job_names_every_step_and_nothing_of_this_machine(job):
    steps = {transform.unique_name for transform in job.components.transforms.values()}
    assert {
        "ListFolders",
        "Recall",
        "Inspect",
        "DropCopies",
        "Search",
        "Assign",
        "Plan",
        "WriteShard",
        "Version",
    } <= steps
    (environment,) = job.components.environments.values()
    assert environment.urn == "beam:env:docker:v1"
    assert IMAGE in environment.payload.decode(errors="replace")
    told = b""
    repository = pathlib.Path(__file__).resolve().parents[1]
    # Of Beam's own functions the file's name travels along.
    here = [tempfile.gettempdir() + "/", *(f"{repository}/{package}" for package in ("beam_jobs", "pipeline"))]
    for transform in job.components.transforms.values():
        if transform.spec.urn != "beam:transform:pardo:v1":
            continue
        function = runner_api.ParDoPayload.FromString(transform.spec.payload).do_fn.payload
        text = unpickled_text(function)
        told += text
        for place in here:
            assert place.encode() not in text, transform.unique_name
    assert b"/photos" in told  # the texts were readable
    coders = {  # Beam writes the class before its pickle
        re.sub(rb".*?(\w+)$", rb"\1", coder.spec.payload.partition(b"$")[0], flags=re.DOTALL)
        for coder in job.components.coders.values()
        if coder.spec.urn.startswith("beam:coder:pickled_python")
    }
    for kind in (b"ItemCoder", b"FolderCoder", b"RowCoder", b"RejectCoder", b"CopiesCoder"):
        assert any(name.endswith(kind) for name in coders), kind
