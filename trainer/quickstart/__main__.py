r"""Makes a model of a folder of photos: builds a dataset, checks it, trains, and writes a page to start from.

    python -m trainer.quickstart PHOTOS
    python -m trainer.quickstart PHOTOS --time=10m

PHOTOS holds one folder of photos for each class: PHOTOS/roses/1.jpg, PHOTOS/tulips/2.png. Everything goes beside it,
into PHOTOS-model/:

    index.html   data, model, try it, next steps: begin here
    model        link to the model that is taken, for python -m trainer.predict --model=PHOTOS-model/model
    try.html     the model in a page: drop photos on it (after python -m trainer.serving.page, once)
    data/        the dataset, and what the check found
    runs/        the training runs, each with a report
    log.txt      what the commands have said: those that one would type

After about a minute there is a model that can be used, a head on features of a network that knows ImageNet. Fine-tuning
goes on from it, and takes its place only if it is better on images of validation beyond chance. All of it may be
stopped at any moment; the same command goes on where it was. With other photos in the folder it builds a new version
and trains on that. --time is kept: fine-tuning is made shorter, or stopped while there is time to make a model of it.
"""

from __future__ import annotations

from absl import flags

from pipeline.command import DataError, TryAgainError, UsageError, run_command
from pipeline.format.lock import exclusive
from pipeline.processes import stop_on_sigterm
from trainer.auto.choice import seconds_of
from trainer.quickstart.course import Course, countdown_of
from trainer.quickstart.memory import Memory
from trainer.quickstart.photos import count_photos
from trainer.quickstart.place import Place, find_place
from trainer.quickstart.steps import Commands, Steps
from trainer.quickstart.talk import Talk

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "Folder for everything that is made; PHOTOS-model if not given.")
flags.DEFINE_string(
    "time", None, "How long it may take, all together, e.g. 90s, 10m or 1h; as long as it takes if not."
)
flags.DEFINE_enum(
    "recipe",
    "photos",
    ["photos", "quick"],
    "photos: at 224 pixels, mirrored at random. quick: for small pictures, digits, letters: 64 pixels, not mirrored.",
)
flags.DEFINE_enum(
    "near_duplicates",
    "group",
    ["keep", "drop", "group"],
    "Images that look alike: group keeps them in one split, drop keeps the largest. keep does not look for them: right "
    "for digits and the like, which all look alike.",
)
flags.DEFINE_float("max_reject_fraction", 0.1, "Stop if more of the photos than this part of them cannot be used.")


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        what = f"got {len(arguments)} folders" if arguments else "no folder of photos"
        raise UsageError(f"{what}; give one: python -m trainer.quickstart PHOTOS (--help tells more)")
    run(arguments[0], commands=Commands())


def run(photos: str, *, commands: Commands) -> None:
    """Goes the whole way that the flags ask for, or what is left of it, by these commands."""
    budget = seconds_of(FLAGS.time, flag="time") if FLAGS.time else None
    place = find_place(photos, FLAGS.output)
    talk = Talk()
    try:
        with stop_on_sigterm(), exclusive(place.root, doing="makes a model of these photos") as lock:
            _run(place, commands, talk, lock=lock.descriptor, budget=budget)
    except KeyboardInterrupt:
        raise TryAgainError("stopped; what is done is kept: run the same command again to go on") from None
    except (UsageError, DataError):
        place.remove_if_nothing_came()
        raise
    finally:
        talk.clear()


def _run(place: Place, commands: Commands, talk: Talk, *, lock: int | None, budget: float | None) -> None:
    counts = count_photos(place)
    memory = Memory.read(place.state)
    memory.write()  # says whose folder it is
    countdown = countdown_of(FLAGS.recipe, counts, memory, talk, budget=budget)
    steps = Steps(
        place=place,
        recipe=FLAGS.recipe,
        of_build={name: FLAGS[name].value for name in ("near_duplicates", "max_reject_fraction")},
        commands=commands,
        lock=lock,
        tick=countdown.show,
    )
    folders = f"{len(counts)} folder{'' if len(counts) == 1 else 's'}"
    files = f": {sum(counts.values()):,} files in {folders}" if counts else ""
    talk.line(f"photos {place.photos}{files}; all that is made goes to {place.root}")
    Course(place=place, recipe=FLAGS.recipe, steps=steps, countdown=countdown, talk=talk).run()


if __name__ == "__main__":
    run_command(main, accepts_arguments=True)
