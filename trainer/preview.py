"""Shows what the model will see.

    python -m pipeline.preview DATA --recipe=NAME

Draws a contact sheet: each row an image as evaluation sees it, then as `--epochs` training epochs see it, with the
parameters that were drawn. The pixels come from the very functions, seed and keys that training uses.
"""

from __future__ import annotations

import pathlib

from absl import flags
from PIL import Image

from pipeline.command import UsageError, print_next, run_command
from pipeline.format.manifest import open_dataset
from pipeline.format.places import check_folder
from trainer.devices.chips import spare_metadata_server
from trainer.recipes.load import facts_of, load_recipe

flags.DEFINE_string("data", None, "Dataset root or version directory.")
flags.DEFINE_string("recipe", None, "Name in trainer/recipes, or a run's config.json.")
_OUTPUT = flags.DEFINE_string("output", "preview.png", "Image file to write.")
flags.DEFINE_alias("out", "output")
_SPLIT = flags.DEFINE_string("split", "train", "Split to show.")
_IMAGES = flags.DEFINE_integer("images", 6, "Rows: images to show.", lower_bound=1, upper_bound=100)
_EPOCHS = flags.DEFINE_integer("epochs", 5, "Columns: epochs to show.", lower_bound=1, upper_bound=50)
_SEED = flags.DEFINE_integer("seed", 0, "The training run's seed.", lower_bound=0)


def main(arguments: list[str]) -> None:
    del arguments
    spare_metadata_server()  # before any code of the user's own, which may import TensorFlow
    data = open_dataset(flags.FLAGS.data)
    recipe = load_recipe(flags.FLAGS.recipe, facts_of(data))
    if not data.manifest.num_examples(_SPLIT.value):
        raise UsageError(f"--split={_SPLIT.value}: the split is empty")
    out = pathlib.Path(_OUTPUT.value)
    if out.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"--output={out}: no kind of image; give a name like preview.png")
    check_folder(str(out.parent), flag="output")
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
        raise UsageError(f"--output={out}: {error}") from error
    print(f"{out}: {len(serialized)} images of {_SPLIT.value}, as evaluation and {_EPOCHS.value} epochs see them")
    words = [flags.FLAGS.data, "--run=RUN", f"--recipe={flags.FLAGS.recipe}"]
    print_next("train:", "python -m trainer.main", *words)


if __name__ == "__main__":
    run_command(main, argument="data", needs=("data", "recipe"), is_native=True)
