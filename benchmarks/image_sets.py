"""Writes the image sets that `benchmarks.finetune_vs_probe` compares on: a folder of one folder a class each.

    python -m benchmarks.image_sets --flowers=FLOWERS --pets=PETS --cifar10=CIFAR --fashion=IDX --output=SETS

What lies where: `--flowers`, a folder of one folder a class, is copied. `--pets`, a folder of Oxford-IIIT Pet's images,
gives the breeds of which there are four and more. `--cifar10` is `cifar-10-python.tar.gz`, of which the first two
training batches are taken; `--fashion` the folder of Fashion-MNIST's IDX files (Debian's dataset-fashion-mnist), of
which the test images are. scikit-learn's digits, eight pixels wide, are always written, enlarged four times without
smoothing. Of these last three 100 images a class are taken: two cores are to train on them many times.
"""

from __future__ import annotations

import collections
import gzip
import pathlib
import pickle
import shutil
import tarfile
from collections.abc import Iterable, Iterator

import numpy as np
from absl import flags
from PIL import Image

from pipeline.command import UsageError, run_command

SOURCES = ("flowers", "pets", "cifar10", "fashion")
_GIVEN = {name: flags.DEFINE_string(name, None, "Where it lies, see above.") for name in SOURCES}
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the sets.", required=True)

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
LEAST_PETS = 4  # of a breed: two to train on, one each for validation and test
MOST = 100  # images a class, of the sets that are cut


def cifar10(archive: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields class and pixels, uint8 [32, 32, 3]."""
    with tarfile.open(archive) as tar:
        for batch in ("data_batch_1", "data_batch_2"):
            file = tar.extractfile(f"cifar-10-batches-py/{batch}")
            assert file is not None
            content = pickle.load(file, encoding="bytes")
            for label, row in zip(content[b"labels"], content[b"data"], strict=True):
                yield CIFAR10[label], row.reshape(3, 32, 32).transpose(1, 2, 0)


def fashion(folder: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields class and pixels, uint8 [28, 28], of the test images; IDX: yann.lecun.com/exdb/mnist."""
    images = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = np.frombuffer(images, np.uint8).reshape(-1, 28, 28)
    yield from ((FASHION[label], image) for label, image in zip(labels, pixels, strict=True))


def digits() -> Iterator[tuple[str, np.ndarray]]:
    """Yields class and pixels, uint8 [32, 32]."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    for label, image in zip(loaded.target, loaded.images, strict=True):
        grey = np.round(image * (255 / 16)).astype(np.uint8)
        yield str(label), grey.repeat(4, axis=0).repeat(4, axis=1)


def write(folder: pathlib.Path, images: Iterable[tuple[str, np.ndarray]]) -> int:
    """Writes the first `MOST` images of each class as PNG; returns how many it wrote."""
    counts: collections.Counter[str] = collections.Counter()
    for label, pixels in images:
        if counts[label] == MOST:
            continue
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / label / f"{counts[label]:04}.png")
        counts[label] += 1
    return counts.total()


def copy(folder: pathlib.Path, files: Iterable[pathlib.Path], labels: Iterable[str]) -> int:
    """Copies files into their classes' folders; returns how many."""
    pairs = list(zip(files, labels, strict=True))
    for file, label in pairs:
        (folder / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / label / file.name)
    return len(pairs)


def copy_pets(folder: pathlib.Path, images: pathlib.Path) -> int:
    files = sorted(images.glob("*.jpg"))
    breeds = [file.stem.rpartition("_")[0] for file in files]
    kept = [(file, breed) for file, breed in zip(files, breeds, strict=True) if breeds.count(breed) >= LEAST_PETS]
    return copy(folder, *zip(*kept, strict=True))


def main(arguments: list[str]) -> None:
    """Writes every set whose source is given, and the digits."""
    del arguments
    output = pathlib.Path(_OUTPUT.value)
    given = {name: pathlib.Path(flag.value) for name, flag in _GIVEN.items() if flag.value}
    for name, path in given.items():
        if not path.exists():
            raise UsageError(f"--{name}={path}: no such file or folder")
    if output.exists():
        raise UsageError(f"--output={output} exists; name a new folder")
    counts = {"digits": write(output / "digits", digits())}
    if "flowers" in given:
        files = sorted(given["flowers"].glob("*/*.jpg"))
        counts["flowers"] = copy(output / "flowers", files, [file.parent.name for file in files])
    if "pets" in given:
        counts["pets"] = copy_pets(output / "pets", given["pets"])
    if "cifar10" in given:
        counts["cifar10"] = write(output / "cifar10", cifar10(given["cifar10"]))
    if "fashion" in given:
        counts["fashion"] = write(output / "fashion", fashion(given["fashion"]))
    for name, count in counts.items():
        print(f"{output / name}: {count} images of {len(list((output / name).iterdir()))} classes")


if __name__ == "__main__":
    run_command(main)
