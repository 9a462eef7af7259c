"""Shows what the model will see: python -m pipeline.preview --data=DATA --recipe=NAME --out=preview.png

Draws a contact sheet: each row an image as evaluation sees it, then as `--epochs` training epochs see it, with the
parameters that were drawn. The pixels come from the very functions, seed and keys that training uses.
"""

from __future__ import annotations

import pathlib

from absl import flags
from PIL import Image

from pipeline.command import UsageError, run_command
from pipeline.format.manifest import open_dataset
from pipeline.format.places import check_folder
from trainer.devices.chips import spare_metadata_server
from trainer.recipes.load import facts_of, load_recipe

_DATA = flags.DEFINE_string("data", None, "Dataset root or version directory.", required=True)
_RECIPE = flags.DEFINE_string("recipe", None, "Name in trainer/recipes, or a run's config.json.", required=True)
_OUT = flags.DEFINE_string("out", "preview.png", "Image file to write.")
_SPLIT = flags.DEFINE_string("split", "train", "Split to show.")
_IMAGES = flags.DEFINE_integer("images", 6, "Rows: images to show.", lower_bound=1, upper_bound=100)
_EPOCHS = flags.DEFINE_integer("epochs", 5, "Columns: epochs to show.", lower_bound=1, upper_bound=50)
_SEED = flags.DEFINE_integer("seed", 0, "The training run's seed.", lower_bound=0)


def main(arguments: list[str]) -> None:
    del arguments
    spare_metadata_server()  # before any code of the user's own, which may import TensorFlow
    data = open_dataset(_DATA.value)
    recipe = load_recipe(_RECIPE.value, facts_of(data))
    if not data.manifest.num_examples(_SPLIT.value):
        raise UsageError(f"--split={_SPLIT.value}: the split is empty")
    out = pathlib.Path(_OUT.value)
    if out.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"--out={out}: no kind of image; give a name like preview.png")
    check_folder(str(out.parent), flag="out")
    # Takes seconds: TensorFlow.
    from pipeline.contact_sheet import contact_sheet, first_records, render_epochs

    serialized = first_records(data, _SPLIT.value, _IMAGES.value)
    size = recipe.image_size
    pixels, captions = render_epochs(
        data,
        serialized,
        config=recipe.augment,
        height=size,
        width=size,
        view=recipe.view,
        seed=_SEED.value,
        epochs=_EPOCHS.value,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        contact_sheet(pixels, captions).save(out)
    except (ValueError, OSError) as error:
        raise UsageError(f"--out={out}: {error}") from error
    print(f"{out}: {len(serialized)} images of {_SPLIT.value}, as evaluation and {_EPOCHS.value} epochs see them")


if __name__ == "__main__":
    run_command(main)
