"""Measures the builder beside its peers: images per second, and memory of the whole process tree.

    python -m benchmarks.build --photos=DIR --images=100000 --peers=bare,tfds       # a folder
    python -m benchmarks.build --photos=DIR --images=20000 --peers=img2dataset      # URLs on loopback, same output size
    python -m benchmarks.build --photos=DIR --memory                                # 10,000 and 100,000 small images

--images: the photos are multiplied to that many different ones, because copies would be dropped: parts of two photos
laid over each other, so that hardly any look alike; with --alike random crops of one, for which the builder looks
longer. --cold: before each run the files leave memory, as they are when a build is a folder's first reader.

Bare loop: one process a core that reads, decodes (Pillow) and hashes each file, once its bytes only and once its pixels
too. TFDS: a `beam` builder of the same folder, on the same runner. img2dataset: in a virtual environment of its own,
which takes the network. Every figure is from a process's start to its end, as wall-clock time and as processor time of
all its processes; "without start-up" leaves out what a build of 20 images takes. The runs take turns. All have their
byte code cached, as after an installation. Measure on a machine that does nothing else, with two cores as:
taskset -c 0,1 python -m benchmarks.build … (Processor times bear other work better.) --memory adds up the processes'
resident memory, so it counts shared pages several times.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import http.server
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback
import venv
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from benchmarks.process_tree import peak_bytes
from pipeline.command import UsageError, run_command

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of photos, one sub-folder a class.")
_IMAGES = flags.DEFINE_integer("images", 0, "Multiply the photos to this many distinct ones; 0: take them as they are.")
_ALIKE = flags.DEFINE_bool("alike", False, "Multiply them to crops of the same photos, which look alike.")
_COLD = flags.DEFINE_bool("cold", False, "Have the files read from the disk instead of from memory.")
_PEERS = flags.DEFINE_list("peers", ["bare"], "What to compare with: bare, tfds, img2dataset.")
_MEMORY = flags.DEFINE_bool("memory", False, "Measure memory instead, over numbers of small images.")
_MEMORY_SIZES = flags.DEFINE_list("memory_images", ["10000", "100000"], "Numbers of small images.")
_REPEATS = flags.DEFINE_integer("repeats", 2, "Runs of each; the best one counts.", lower_bound=1)
_BEAM = flags.DEFINE_multi_string("beam", [], "Beam option for the builder, for example --beam=--direct_num_workers=2.")

_IMG2DATASET = "img2dataset==1.47.0"
_START_UP = "beam_jobs, 20 images"
_SIDE = 256  # pixels, for the comparison with img2dataset
_SMALL = 64  # pixels, for memory

_TFDS_BUILDER = """
import pathlib, sys
import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions

class Photos(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        names = sorted(p.name for p in pathlib.Path(sys.argv[1]).iterdir() if p.is_dir())
        label = tfds.features.ClassLabel(names=names)
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(encoding_format="jpeg"), "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        files = sorted(str(p) for p in pathlib.Path(sys.argv[1]).glob("*/*"))
        def example(path):
            p = pathlib.Path(path)
            return "/".join(p.parts[-2:]), {"image": p.read_bytes(), "label": p.parts[-2]}
        return beam.Create(files) | beam.Reshuffle() | beam.Map(example)

options = PipelineOptions(direct_num_workers=int(sys.argv[3]), direct_running_mode="multi_processing")
config = tfds.download.DownloadConfig(beam_runner="FnApiRunner", beam_options=options)
Photos(data_dir=sys.argv[2]).download_and_prepare(download_config=config)
"""


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _opened(path: pathlib.Path) -> Image.Image:
    with Image.open(path) as photo:
        return photo.convert("RGB")


def _crop(
    image: Image.Image, rng: np.random.Generator, *, part: tuple[float, float], size: tuple[int, int]
) -> Image.Image:
    width, height = (side * rng.uniform(*part) for side in image.size)
    x, y = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    return image.resize(size, box=(x, y, x + width, y + height), reducing_gap=1.0)


def _multiply(number: int, *, photos: Sequence[pathlib.Path], root: pathlib.Path, each: int, side: int) -> None:
    """Writes `each` images, all different, of one photo; `side` 0: of the photo's size."""
    rng = np.random.default_rng(number)
    photo = _opened(photos[number])
    size = (side, side) if side else photo.size
    for copy in range(each):
        if _ALIKE.value:
            image = _crop(photo, rng, part=(0.9, 0.99), size=size)
        else:
            other = _opened(photos[rng.integers(len(photos))]).transpose(Image.Transpose(rng.integers(7)))
            parts = [_crop(one, rng, part=(0.2, 0.7), size=size) for one in (photo, other)]
            image = Image.blend(*parts, alpha=0.5)
        image.save(root / photos[number].parent.name / f"{number}-{copy}.jpg", quality=90)


def _photos() -> list[pathlib.Path]:
    if not _PHOTOS.value or not pathlib.Path(_PHOTOS.value).is_dir():
        raise UsageError("--photos: a folder with one sub-folder a class is needed")
    return sorted(path for path in pathlib.Path(_PHOTOS.value).glob("*/*") if path.is_file())


def _multiplied(root: pathlib.Path, images: int, *, side: int = 0) -> pathlib.Path:
    photos = _photos()
    for label in {photo.parent.name for photo in photos}:
        (root / label).mkdir(parents=True)
    make = functools.partial(_multiply, photos=photos, root=root, each=-(-images // len(photos)), side=side)
    with multiprocessing.Pool(_cores()) as pool:
        pool.map(make, range(len(photos)), chunksize=4)
    return root


def _bare(path: str, *, pixels: bool) -> bytes:
    with open(path, "rb") as file:
        data = file.read()
    digest = hashlib.sha256(data)
    with Image.open(path) as image:
        image.load()
        if pixels:
            digest.update(image.tobytes())
    return digest.digest()


def _bare_loop(folder: pathlib.Path, *, pixels: bool) -> None:
    files = [str(path) for path in folder.glob("*/*")]
    with multiprocessing.Pool(_cores()) as pool:
        for _ in pool.imap_unordered(functools.partial(_bare, pixels=pixels), files, chunksize=64):
            pass


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]} ended with {done.returncode}:\n{done.stderr[-3000:]}")


def _builder(source: str, data: pathlib.Path, output: pathlib.Path, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "beam_jobs.build_tfrecords", f"--source={source}", f"--input={data}"]
    return [*command, f"--output={output}", "--name=photos", *arguments, *_BEAM.value]


@contextlib.contextmanager
def _served(folder: pathlib.Path) -> Iterator[str]:
    """Serves the folder on loopback from a process of its own; yields the base URL."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        process.kill()
        process.join()
        server.server_close()


def _img2dataset(scratch: pathlib.Path) -> str:
    """Installs img2dataset in a new virtual environment and returns its path."""
    venv.create(scratch / "venv", with_pip=True)
    python = scratch / "venv/bin/python"
    _run([str(python), "-m", "pip", "install", "--quiet", _IMG2DATASET, "setuptools<81"])
    return str(scratch / "venv/bin/img2dataset")


class _Cost(NamedTuple):
    """Holds seconds: wall-clock time, and processor time of a process with all its descendants."""

    wall: float
    processor: float


def _cost(run: Callable[[pathlib.Path], None], output: pathlib.Path) -> _Cost:
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        try:
            run(output)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError("a run failed, see above")
    return _Cost(time.monotonic() - start, usage.ru_utime + usage.ru_stime)


def _forget(folder: pathlib.Path) -> None:
    """Has the system drop the files' contents from memory (Linux)."""
    os.sync()  # what is not written yet stays
    for path in folder.glob("*/*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _measure(runs: dict[str, Callable[[pathlib.Path], None]], *, folder: pathlib.Path, scratch: pathlib.Path) -> None:
    images = sum(1 for _ in folder.glob("*/*"))
    costs: dict[str, list[_Cost]] = {name: [] for name in runs}
    for repeat in range(_REPEATS.value):
        for number, (name, run) in enumerate(runs.items()):
            if _COLD.value:
                _forget(folder)
            # Nothing is removed between runs: after many removals ext4 makes new files slowly for seconds.
            costs[name].append(_cost(run, scratch / f"run-{repeat}-{number}"))
    best = {name: _Cost(*map(min, zip(*several, strict=True))) for name, several in costs.items()}
    if _START_UP in best:
        best["beam_jobs without start-up"] = _Cost(*map(float.__sub__, best["beam_jobs"], best.pop(_START_UP)))
    for name, cost in best.items():
        compared = [f"{other:.2f}" for other in (cost.wall / best["beam_jobs"].wall, cost[1] / best["beam_jobs"][1])]
        print(
            f"{name:28}{cost.wall:7.1f} s {images / cost.wall:7.0f} images/s, beam_jobs {compared[0]} of that; "
            f"{cost.processor:7.1f} s of processor time, {compared[1]}"
        )


def _some(folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Makes a folder with 20 images of two classes."""
    for label in sorted(path for path in folder.iterdir() if path.is_dir())[:2]:
        (target / label.name).mkdir(parents=True)
        images = sorted(label.iterdir())
        for image in images[:: max(1, len(images) // 10)][:10]:  # not the crops of one photo
            (target / label.name / image.name).symlink_to(image.resolve())
    return target


def _compare_folder(folder: pathlib.Path, scratch: pathlib.Path) -> None:
    few = _some(folder, scratch / "few")
    runs: dict[str, Callable[[pathlib.Path], None]] = {
        "beam_jobs": lambda out: _run(_builder("folder", folder, out)),
        _START_UP: lambda out: _run(_builder("folder", few, out)),
    }
    if "bare" in _PEERS.value:
        runs["bare loop, hashes files"] = lambda out: _bare_loop(folder, pixels=False)
        runs["bare loop, and pixels"] = lambda out: _bare_loop(folder, pixels=True)
    if "tfds" in _PEERS.value:
        script = scratch / "tfds_builder.py"
        script.write_text(_TFDS_BUILDER)
        runs["TFDS beam builder"] = lambda out: _run(
            [sys.executable, str(script), str(folder), str(out), str(_cores())]
        )
    _measure(runs, folder=folder, scratch=scratch)


def _compare_urls(folder: pathlib.Path, scratch: pathlib.Path) -> None:
    files = sorted(path.relative_to(folder) for path in folder.glob("*/*"))
    img2dataset = _img2dataset(scratch)
    with _served(folder) as base:
        table = scratch / "photos.csv"
        with open(table, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["uri", "label"])
            writer.writerows((f"{base}/{path}", path.parts[0]) for path in files)
        ours = ["--allow_private_addresses", "--downloads_per_host=32", f"--max_side={_SIDE}"]
        peer = [img2dataset, f"--url_list={table}", "--input_format=csv", "--url_col=uri", "--output_format=webdataset"]
        peer += [f"--image_size={_SIDE}", "--resize_mode=keep_ratio_largest", "--enable_wandb=False"]
        peer += [f"--processes_count={_cores()}", "--thread_count=32", "--number_sample_per_shard=1000"]
        runs: dict[str, Callable[[pathlib.Path], None]] = {
            "beam_jobs": lambda out: _run(_builder("csv", table, out, *ours)),
            "img2dataset": lambda out: _run([*peer, f"--output_folder={out}"]),
        }
        _measure(runs, folder=folder, scratch=scratch)


def _measure_memory(scratch: pathlib.Path) -> None:
    first = 0
    for size in map(int, _MEMORY_SIZES.value):
        folder = _multiplied(scratch / f"small-{size}", size, side=_SMALL)
        peak = peak_bytes(_builder("folder", folder, scratch / f"out-{size}"))
        first = first or peak
        print(f"{size:8d} small images: {peak / 1e6:5.0f} MB at the peak, {peak / first:.2f} times the first")


def main(_: list[str]) -> None:
    if unknown := sorted(set(_PEERS.value) - {"bare", "tfds", "img2dataset"}):
        raise UsageError(f"--peers={unknown[0]}: peers are bare, tfds, img2dataset")
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(scratch / "bytecode")  # where the first of the repeats writes it
        if _MEMORY.value:
            _measure_memory(scratch)
            return
        _photos()
        folder = _multiplied(scratch / "photos", _IMAGES.value) if _IMAGES.value else pathlib.Path(_PHOTOS.value)
        if {"bare", "tfds"} & set(_PEERS.value):
            _compare_folder(folder, scratch)
        if "img2dataset" in _PEERS.value:
            _compare_urls(folder, scratch)


if __name__ == "__main__":
    run_command(main)
