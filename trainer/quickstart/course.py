"""Takes a folder of photos to a model: build → check → head → fine-tuning; after the head there is a model to be asked.

Each step finds what it has left before and goes on from there, so all of it may be stopped at any moment.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.command import DataError, TryAgainError, UsageError
from pipeline.format.manifest import TEST, TRAIN, VALIDATION, DatasetVersion, open_dataset
from pipeline.format.rows import checks_folder
from pipeline.format.sums import SUMS_FILE
from pipeline.pages.environment import duration
from pipeline.pages.findings import Level
from pipeline.predictions import predictions_file
from trainer.quickstart.choice import accuracy
from trainer.quickstart.countdown import Countdown, epochs_done
from trainer.quickstart.memory import Memory
from trainer.quickstart.model import Model, current_model, head_of, last_stopped, shorter, stopped_at, tuned
from trainer.quickstart.outlook import BUILD, CHECK, EPOCH, HEAD, START, STOPPED, TRAIN_SHARE, TUNING, Outlook
from trainer.quickstart.page import COMPARISON, example_photo, write_page, write_try_page
from trainer.quickstart.place import Place
from trainer.quickstart.steps import Steps
from trainer.quickstart.talk import Talk
from trainer.quickstart.verdict import Verdict, better_of, knows_other_classes, successor
from trainer.recipes.load import load_recipe
from trainer.recipes.recipe import DataFacts

_IN_TIME = 0.95  # of what is left of the budget: how much fine-tuning is planned for
_SURELY = 0.7  # of the time that a first model takes by a mere guess: with less there will be none


def outlook_of(recipe: str, *, images: int, train: int, classes: int, slowness: Mapping[str, float]) -> Outlook:
    """Returns the outlook for photos of these numbers."""
    facts = DataFacts(num_train=max(1, train), num_classes=max(2, classes), max_side=1)
    found = load_recipe(recipe, facts)
    epochs = round(found.phases[-1].duration.value)
    return Outlook(images=images, side=found.image_size, epochs=epochs, slowness=slowness)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Course:
    """Holds what the steps have in common.

    Attributes:
      place: where everything lies.
      recipe: that is trained; its first phase is the head, its second one the fine-tuning.
      steps: start the commands.
      countdown: of the time.
      talk: to people.
    """

    place: Place
    recipe: str
    steps: Steps
    countdown: Countdown
    talk: Talk

    def run(self) -> None:
        """Goes all the way.

        Raises:
          UsageError: the budget is too small for a first model.
          DataError: the photos cannot be learnt from, or the check says that they do not tell the classes apart.
          TryAgainError: the budget was spent before there was a first model.
        """
        self._refuse_too_little()
        data = self._build()
        stop = self._check(data)
        head = head_of(self.place, data.manifest.version, self.recipe)
        self._make_head(head, data)
        run = None if stop else self._tune(data)
        self._choose(head, run, data)
        self._finish(data)
        if stop:
            raise DataError(
                f"{stop} Mend that and run the same command again; or fine-tune all the same: python -m trainer.main "
                f"{shlex.quote(self.place.data)} --recipe={self.recipe} --run=RUN"
            )

    def _refuse_too_little(self) -> None:
        outlook, left = self.countdown.outlook, self.countdown.left
        if left is None or current_model(self.place):
            return
        needed = outlook.total((BUILD, CHECK, HEAD)) * (1.0 if outlook.slowness else _SURELY)
        if needed > left:
            raise UsageError(
                f"--time={left:.0f}s is too short: a first model of {outlook.images:,} photos takes about "
                f"{duration(needed)} here; give more, or leave --time out"
            )

    def _timed(self, step: str, after: Sequence[str], start: Callable[[Callable[[], bool]], bool]) -> None:
        """Runs a step that a first model needs, and notes how long it took."""
        self.countdown.begin(step, after)
        if not start(self.countdown.is_over):
            raise self._out_of_time()
        self.countdown.end()

    def _out_of_time(self) -> TryAgainError:
        has = current_model(self.place)
        model = f"the model of before stays, {self.place.model}" if has else "there is no model yet"
        return TryAgainError(f"the time is up; {model}. What is done is kept: run the same command again to go on")

    def _build(self) -> DatasetVersion:
        """Builds the dataset, or finds it as it was."""
        self._timed(BUILD, (CHECK, HEAD, TUNING), self.steps.build)
        data = open_dataset(self.place.data)
        manifest = data.manifest
        sizes = {split: manifest.num_examples(split) for split in manifest.splits}
        if not sizes.get(VALIDATION) or not sizes.get(TRAIN):
            raise DataError(
                f"{self.place.photos}: no images of {'validation' if sizes.get(TRAIN) else 'training'} are left; add "
                "photos, or leave folders named train, validation and test out"
            )
        countdown = self.countdown
        countdown.outlook = outlook_of(
            self.recipe,
            images=sum(sizes.values()),
            train=sizes[TRAIN],
            classes=manifest.num_classes,
            slowness=countdown.memory.slowness,
        )
        told = ", ".join(f"{sizes[split]:,} {split}" for split in (TRAIN, VALIDATION, TEST) if split in sizes)
        images = f"{sum(sizes.values()):,} images of {manifest.num_classes} classes"
        self.talk.line(f"data   version {manifest.version}: {images} ({told})")
        return data

    def _check(self, data: DatasetVersion) -> str:
        """Checks the dataset once; returns why it must not be fine-tuned on, else an empty string."""
        folder = checks_folder(data)
        file = os.path.join(folder, "check.json")
        if not os.path.exists(file):
            self._timed(CHECK, (HEAD, TUNING), self.steps.check)
        found = read_check(file)
        self.talk.line(f"check  {found['verdict']}")
        for one in found["findings"]:
            if one["level"] != Level.GREEN:
                self.talk.more(f"       {one['level']}: {one['text']}")
        self.talk.more(f"       {os.path.join(folder, 'report.html')}")
        return str(found["verdict"]) if any(one["level"] == Level.RED for one in found["findings"]) else ""

    def _make_head(self, head: Model, data: DatasetVersion) -> None:
        """Trains the head; it is the first model of these photos, taken at once where no other knows their classes."""
        if not head.is_whole:
            left = self.countdown.left
            if left is not None and _IN_TIME * self.countdown.outlook.seconds(HEAD) > left and not head.is_begun:
                raise self._out_of_time()
            version = os.path.abspath(data.path)
            self._timed(HEAD, (TUNING,), lambda stop: self.steps.train(head.folder, version, stop, epochs=0))
        current = current_model(self.place)
        if current is None or (current.version != head.version and knows_other_classes(current, head)):
            self._take(Verdict(model=head, why=f"{head.words}: the first model of these classes"))
            current = head
        self._write_pages(data)
        if not tuned(self.place, head.version, self.recipe, epochs=None).is_whole:
            answers = current.answers()
            share, images = accuracy(answers), f"{len(answers.ids):,} validation images"
            self.talk.line(f"model  already {share}, on {images}: {current.words}")
            self.talk.more(f"       try it now: {self._try_command(data)}")
            self.talk.more(f"       page: {self.place.page}")

    def _try_command(self, data: DatasetVersion) -> str:
        photo = example_photo(self.place, data)
        return f"python -m trainer.predict --model={shlex.quote(self.place.model)} {shlex.quote(photo)}"

    def _take(self, verdict: Verdict) -> None:
        """Makes a model the one that is taken."""
        self._note(verdict.why, taken=True)  # first: killed between the two, the next time says and does it once more
        self.place.take(verdict.model.export)

    def _note(self, text: str, *, taken: bool) -> None:
        self.countdown.memory = self.countdown.memory.with_decision(text, taken=taken)

    def _write_pages(self, data: DatasetVersion) -> None:
        current = current_model(self.place)
        assert current is not None, "pages are written once there is a model"
        write_try_page(self.place, title=data.manifest.name)
        write_page(self.place, data, current, self.countdown.memory.decisions)

    def _tune(self, data: DatasetVersion) -> Model | None:
        """Fine-tunes as far as there is time; returns the run that got furthest, or what is made of it."""
        version = data.manifest.version
        planned = self._planned(version)
        if planned is not None:
            run, epochs = planned
            total = self.countdown.outlook.epochs if epochs is None else epochs
            self.talk.line(
                f"tune   {total} epochs, about {duration(self.countdown.outlook.tuning(total))}; it may be stopped"
            )
            self.countdown.begin_tuning(run.folder, total)
            path = os.path.abspath(data.path)
            whole = self.steps.train(run.folder, path, self.countdown.must_stop_tuning, epochs=epochs)
            self.countdown.end_tuning(whole=whole)
            if not whole:
                self._keep_stopped(run, path)
        return self._furthest(version)

    def _planned(self, version: str) -> tuple[Model, int | None] | None:
        """Returns the run to go on with, and its epochs (None: as many as the recipe has); None for no run."""
        place, outlook, left = self.place, self.countdown.outlook, self.countdown.left
        whole = tuned(place, version, self.recipe, epochs=None)
        if whole.is_whole:
            return None
        if left is None:
            return whole, None
        runs: list[tuple[Model, int | None]] = [(whole, None)]
        runs += [(one, epochs) for epochs, one in shorter(place, version, self.recipe)]
        begun = [(one, epochs) for one, epochs in runs if one.is_begun and not one.is_whole]
        fits = outlook.epochs_within(_IN_TIME * left)
        if begun and left > outlook.total((START, EPOCH, STOPPED)):
            return begun[0]
        if not begun and fits > max((epochs or 0 for one, epochs in runs if one.is_whole), default=0):
            return (whole, None) if fits == outlook.epochs else (tuned(place, version, self.recipe, epochs=fits), fits)
        self.talk.line(
            f"tune   no time: an epoch takes about {duration(outlook.seconds(EPOCH))}, and what comes before and "
            f"after it {duration(outlook.tuning(0))}; run it again without --time, or with more"
        )
        return None

    def _keep_stopped(self, run: Model, data: str) -> None:
        """Makes a model of what a run had reached when it was stopped."""
        epochs = epochs_done(run.folder)
        after = f"{epochs} epoch{'' if epochs == 1 else 's'}"
        self.talk.line(f"tune   stopped for the time's sake after {after}; the same command goes on with it")
        if not epochs:
            return
        made = stopped_at(run, epochs, self.recipe)
        self.countdown.begin(STOPPED, ())
        if self._export_stopped(run, made) and self._score(made, data, predictions_file(made.folder, VALIDATION)):
            self.countdown.end()
        else:
            self.talk.more("       there was no time left to make a model of it")

    def _export_stopped(self, run: Model, made: Model) -> bool:
        """Exports what a run had reached when it was stopped; False if the time is up before."""
        if os.path.exists(os.path.join(made.export, SUMS_FILE)):
            return True
        os.makedirs(made.folder, exist_ok=True)
        return self.steps.export_stopped(run.folder, made.export, self.countdown.is_over)

    def _score(self, model: Model, data: str, output: str) -> bool:
        """Asks a model about the images of validation; False if the time is up before."""
        return self.steps.score(model.export, data, output, self.countdown.is_over, split=VALIDATION)

    def _furthest(self, version: str) -> Model | None:
        """Returns the run that was trained longest, else what was made of one that was stopped."""
        whole = tuned(self.place, version, self.recipe, epochs=None)
        runs = [whole, *(one for _, one in shorter(self.place, version, self.recipe))]
        return next((one for one in runs if one.is_whole), last_stopped(self.place, version, self.recipe))

    def _choose(self, head: Model, run: Model | None, data: DatasetVersion) -> None:
        """Takes the best model of these photos, if it is to take the place of the one that is taken."""

        def score(model: Model) -> str:
            output = os.path.join(os.path.dirname(head.folder), f"before-{model.version}-{model.name}.npz")
            if not self._score(model, os.path.abspath(data.path), output):
                raise self._out_of_time()
            return output

        current = current_model(self.place)
        assert current is not None, "the head is taken where nothing was"
        offered = better_of(head, run)
        verdict = successor(current, offered, score)
        page = os.path.join(self.place.root, COMPARISON)
        if run is not None and run.is_whole and _is_older(page, run.folder):
            self.steps.compare(run.folder, head.folder, page, self.countdown.is_over, split=VALIDATION)
        if verdict.model != current:
            self._take(verdict)
            self.talk.line(f"model  replaced: {verdict.why}")
        else:
            if verdict != offered or current.is_head:  # else it was said when it was taken
                self._note(verdict.why, taken=False)
            self.talk.line(f"model  stays: {verdict.why}")

    def _finish(self, data: DatasetVersion) -> None:
        """Tells what there is, and what to do next."""
        self._write_pages(data)
        current = current_model(self.place)
        split = TEST if current and current.has_answers(TEST) else VALIDATION
        if current:
            answers = current.answers(split)
            self.talk.line(f"done   {accuracy(answers)}, on {len(answers.ids):,} {split} images: {self.place.model}")
        self.talk.more(f"       try it: {self._try_command(data)}")
        if os.path.exists(self.place.try_page):
            self.talk.more(f"       in a browser: drop photos on {self.place.try_page}")
        else:
            self.talk.more("       in a browser: python -m trainer.serving.page (once), then the same command again")
        self.talk.more(f"       look at it: {self.place.page}")


def read_check(file: str) -> dict[str, Any]:
    """Reads what a check has found; DataError where the file is damaged."""
    try:
        with open(file, encoding="utf-8") as opened:
            found: dict[str, Any] = json.load(opened)
    except ValueError as error:
        raise DataError(f"{file}: damaged ({error}); delete it, and the same command makes it anew") from error
    return found


def _is_older(page: str, run: str) -> bool:
    """Says whether a page is older than a run's end, or not there."""
    return not os.path.exists(page) or os.stat(page).st_mtime < os.stat(os.path.join(run, "result.json")).st_mtime


def countdown_of(
    recipe: str, counts: Mapping[str, int], memory: Memory, talk: Talk, *, budget: float | None
) -> Countdown:
    """Starts the clock, with the outlook that the numbers of files give before anything is built."""
    images = sum(counts.values())
    outlook = outlook_of(
        recipe, images=images, train=round(TRAIN_SHARE * images), classes=len(counts), slowness=memory.slowness
    )
    return Countdown(outlook, memory, talk, budget=budget)
