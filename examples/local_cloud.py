"""Tries a cloud on this machine: reads and writes gs:// and s3://, and counts words on Prism with a worker elsewhere.

scripts/local_cloud.sh up
scripts/local_cloud.sh run python -m examples.local_cloud
scripts/local_cloud.sh down
"""

from __future__ import annotations

import sys
import tempfile

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.format import storage

TEXT = "to be or not to be"
WORKERS = ("localhost:50051", "localhost:50052")


def write_count(word_and_count: tuple[str, int], folder: str, launchers_file: str) -> None:
    """Writes a word's count into a store, from a worker; fails if the worker sees the launcher's files."""
    if storage.exists(launchers_file):
        raise RuntimeError(f"the worker sees {launchers_file}")
    word, count = word_and_count
    storage.write_atomically(storage.join(folder, word), str(count))


def count_words(text: str, worker: str, folder: str) -> dict[str, int]:
    """Counts words on Prism with one of the workers, which hands the counts over through a store."""
    options = PipelineOptions(
        runner="PortableRunner",
        job_endpoint="localhost:8073",
        environment_type="EXTERNAL",
        environment_config=worker,
    )
    with tempfile.NamedTemporaryFile() as launchers, beam.Pipeline(options=options) as pipeline:
        counts = pipeline | beam.Create(text.split()) | beam.combiners.Count.PerElement()  # (word, count)
        counts | beam.Map(write_count, folder, launchers.name)
    return {entry.name: int(storage.read(storage.join(folder, entry.name))) for entry in storage.list_folder(folder)}


def main() -> None:
    for bucket, worker in zip(("gs://bucket", "s3://bucket"), WORKERS, strict=True):
        path = storage.join(bucket, "text")
        storage.write_atomically(path, TEXT)
        print(path, "holds", storage.read_text(path))
        counts = count_words(storage.read_text(path), worker, storage.join(bucket, "counts"))
        print(f"{bucket}/counts, by the worker at {worker}:", counts)


if __name__ == "__main__":
    sys.exit(main())
