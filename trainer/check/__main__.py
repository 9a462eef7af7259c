r"""Says whether a dataset is fit to be trained on: which labels look wrong, what a model may reach, what would help.

    python -m trainer.check DATA [--output=DIR]

Takes about a minute for 700 photos. Writes report.html, label_issues.csv (which --exclude and --relabel of
beam_jobs.build_tfrecords take) and check.json to --output, by default to DATA/checks/<version>. The features of the
frozen backbone that it computes lie beside the dataset: a run with the same recipe reads them there.
"""

from __future__ import annotations

from absl import flags

from pipeline.command import UsageError, print_next, run_command
from pipeline.format import storage
from pipeline.format.manifest import open_dataset
from pipeline.format.places import check_folder
from pipeline.format.rows import checks_folder
from trainer.devices.chips import spare_metadata_server
from trainer.instead import set_instead
from trainer.readiness import check_request
from trainer.request import Request

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "Dataset root, or one version directory.")
flags.DEFINE_string("output", None, "Folder for what is found; default: DATA/checks/<version>.")
flags.DEFINE_string("against", None, "Version directory to compare with; default: the version before.")
flags.DEFINE_integer("images", 5_000, "Looks at about so many images; 0: at all.", lower_bound=0)
flags.DEFINE_string("recipe", "photos", "As for trainer.main: its backbone, and how that sees the images.")
flags.DEFINE_string("backbone", None, "As for trainer.main.")
flags.DEFINE_string("weights", None, "As for trainer.main.")
flags.DEFINE_multi_string("set", [], "As for trainer.main (repeatable).")
flags.DEFINE_integer("seed", 0, "Seeds what is drawn at random.", lower_bound=0)


def main(arguments: list[str]) -> int | None:
    del arguments
    spare_metadata_server()  # before any code of the user's own, which may import TensorFlow
    data = open_dataset(FLAGS.data)
    if FLAGS.against and not storage.exists(FLAGS.against):
        raise UsageError(f"--against={FLAGS.against}: no such directory; give DATA/versions/<version>")
    against = open_dataset(FLAGS.against) if FLAGS.against else None
    request = Request(
        data=FLAGS.data,
        recipe=FLAGS.recipe,
        backbone=FLAGS.backbone,
        weights=FLAGS.weights,
        settings=tuple(FLAGS.set),
        seed=FLAGS.seed,
    )
    recipe = check_request(request, data)
    if recipe.weights == "none" and not recipe.init:
        raise UsageError(
            f"recipe {recipe.name} begins with random weights, whose features tell nothing: take another --recipe, or "
            "--weights=imagenet"
        )
    output = FLAGS.output or checks_folder(data)
    check_folder(output, flag="output")
    from trainer.check.check import check, lines  # takes seconds: TensorFlow

    found = check(request, recipe, data, output=output, most=FLAGS.images, against=against)
    print("\n".join(lines(found, output)))
    print_next("train:", "python -m trainer.main", FLAGS.data, "--run=RUN")
    return None


if __name__ == "__main__":
    run_command(main, argument="data", needs=("data",), instead=set_instead, is_native=True)
