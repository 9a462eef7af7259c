"""Does what trainer.check and trainer.api are asked for: refuses what is wrong before TensorFlow is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.command import UsageError
from pipeline.format import kinds, storage
from pipeline.format.manifest import DatasetVersion, open_dataset
from pipeline.format.places import check_folder, check_nothing_is_lost
from pipeline.format.rows import checks_folder
from trainer.devices.chips import spare_metadata_server
from trainer.readiness import check_request
from trainer.request import Request

if TYPE_CHECKING:
    from trainer.check.examine import Examined

IMAGES = 5_000  # looked at, about, unless more or fewer are asked for


def check_asked(
    request: Request, *, output: str | None, against: str | None, most: int
) -> tuple[DatasetVersion, Examined, str]:
    """Checks a dataset; returns it with what was found, and the folder that this was written to.

    Args:
      request: what a run would be asked for.
      output: folder for what is found; None: DATA/checks/<version>.
      against: version directory to compare with; None: the version before.
      most: how many images are looked at, about; 0: all.

    Raises:
      UsageError: a wrong value, or a folder that cannot be written.
      DataError: a shard or a table of the build is damaged.
    """
    if most < 0:
        raise UsageError(f"--images={most}: must not be negative")
    spare_metadata_server()  # before any code of the user's own, which may import TensorFlow
    data = open_dataset(request.data)
    if against and not storage.exists(against):
        raise UsageError(f"--against={against}: no such directory; give DATA/versions/<version>")
    other = open_dataset(against) if against else None
    recipe = check_request(request, data)
    if recipe.weights == "none" and not recipe.init:
        raise UsageError(
            f"recipe {recipe.name} begins with random weights, whose features tell nothing: take another --recipe, or "
            "--weights=imagenet"
        )
    folder = output or checks_folder(data)
    if output:
        check_nothing_is_lost(output, flag="output", kind=kinds.CHECK, writes=("report.html",))
    check_folder(folder, flag="output")
    from trainer.check.check import check  # takes seconds: TensorFlow

    return data, check(request, recipe, data, output=folder, most=most, against=other), folder
