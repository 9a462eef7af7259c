"""Does one training run from a dataset to `RUN/`: configuration, training, evaluation, export, report, provenance."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from pipeline import dataset
from pipeline.augment.own_policy import own_policy
from pipeline.command import UsageError, print_next
from pipeline.decode import why_unusable
from pipeline.format import storage, verify
from pipeline.format.manifest import TEST, TRAIN, VALIDATION, DatasetVersion, open_dataset
from pipeline.format.owner import owned
from pipeline.linear.calibration import fit_temperature, with_temperature
from pipeline.own_code import is_own
from pipeline.predictions import Predictions, predictions_file
from pipeline.progress import counting
from trainer.devices.cluster import read_cluster
from trainer.devices.stopping import Wishes, handled
from trainer.devices.strategy import is_tpu, make_strategy
from trainer.devices.tpu.hosts import TpuPlace
from trainer.devices.tpu.server import beside, watched
from trainer.devices.workers import Workers
from trainer.models import backbone_info
from trainer.models.classifier import Classifier
from trainer.recipes import overrides
from trainer.recipes.fitting import fit_to_tpu
from trainer.recipes.load import check_schedules, resolve
from trainer.recipes.own import copy_into, digests, own_code
from trainer.recipes.recipe import Recipe
from trainer.report import explanations
from trainer.report.diagnosis import diagnose
from trainer.report.explanations import Explanations
from trainer.report.page import write_report
from trainer.request import Request
from trainer.rundir import fit_batch, now, provenance, refuse_another_run, settings, tpu_cores
from trainer.serving.explain import explain
from trainer.serving.export import export_classifier
from trainer.serving.golden import GoldenImage, choose_golden
from trainer.serving.measure import draw_sample, measure_forms
from trainer.serving.reference import write_reference
from trainer.serving.score import prediction_rows, write_predictions
from trainer.train.checkpoint import load_best
from trainer.train.evaluation import Metrics, compute_metrics
from trainer.train.guards import named_errors
from trainer.train.loop import Trainer
from trainer.train.model import build_from_recipe, first_model, float32_policy, set_precision
from trainer.train.outlook import remarks
from trainer.train.plan import Plan, Position, class_weights
from trainer.train.predictor import Predictor
from trainer.train.progress import COMPILING, Progress
from trainer.train.residence import place


def train_and_evaluate(
    request: Request,
    data: DatasetVersion,
    directory: storage.Path,
    wishes: Wishes,
    *,
    strategy: str,
    tpu: TpuPlace | None,
    profile: bool,
    cache: str = "auto",
) -> None:
    """Runs, or goes on with, the training run in `directory`.

    Args:
      request: what to train.
      data: the dataset that it names.
      directory: of the run.
      wishes: whether to stop.
      strategy: one of `request.STRATEGIES`.
      tpu: where the TPU is that trains, if one does.
      profile: whether to write a TensorBoard profile.
      cache: one of `request.CACHES`.

    Raises:
      UsageError: a wrong value, or `directory` holds a run with another configuration or dataset.
      DataError: the dataset cannot be trained on.
      TryAgainError: stopped by SIGTERM or Ctrl-C, the state is saved; another process trains the run already; another
        machine is gone.
    """
    started = now()
    cluster = read_cluster(os.environ)
    with contextlib.ExitStack() as stack:
        check_owner = _nobody_else
        with wishes.at_once():
            if cluster is None or cluster.index == 0 or strategy not in ("auto", "multiworker"):
                check_owner = stack.enter_context(owned(directory)).check
            if tpu and tpu.serves is not None:
                stack.enter_context(beside(tpu.serves, tpu.addresses))
            devices = make_strategy(tpu.target if tpu else "", kind=strategy, cluster=cluster)
            stack.enter_context(handled(wishes))
            workers = Workers(devices)
            if tpu and tpu.addresses:
                stack.enter_context(watched(tpu.addresses))
            stack.enter_context(workers.or_try_again())
            plan, classifier = _prepare(
                request, data, directory, devices, workers, check_owner, wishes, profile=profile, cache=cache
            )
        _train(request, plan, classifier, devices, workers, started=started)
        workers.wait()  # whoever leaves earlier looks like a crash to the others


def _prepare(
    request: Request,
    data: DatasetVersion,
    directory: storage.Path,
    strategy: tf.distribute.Strategy,
    workers: Workers,
    check_owner: Callable[[], None],
    wishes: Wishes,
    *,
    profile: bool,
    cache: str,
) -> tuple[Plan, Classifier]:
    """Returns what is to be done and the model that it begins with; says in `directory` that it is begun."""
    if request.skip_bad_records:
        data = _without_bad_records(request, data, directory, workers)
    recipe, content = _fitted(request, data, directory, strategy)
    workers.require_same(content, what="flags and dataset")
    refuse_another_run(directory, content, extensions=len(request.extend))
    if is_own(recipe.augment.policy):  # refused now, not when a later phase begins
        own_policy(recipe.augment.policy, height=recipe.image_size, width=recipe.image_size)
    for remark in remarks(recipe, data):
        logging.warning("%s", remark)
    set_precision(recipe, strategy)
    classifier = first_model(recipe, labels=data.manifest.labels, seed=request.seed, strategy=strategy)
    if workers.is_chief:
        check_owner()
        request.mark_begun(directory)
        copy_into(directory, own_code(request.recipe, recipe))
        storage.write_atomically(storage.join(directory, "config.json"), json.dumps(content, indent=2) + "\n")
        logging.info("on screen while it trains: tensorboard --logdir=%s", shlex.quote(os.fspath(directory)))
    with _named_errors(data):
        cache, on_devices = place(cache, recipe, data, strategy)
    plan = Plan(
        recipe=recipe,
        data=data,
        seed=request.seed,
        run=directory,
        class_weights=class_weights(recipe, data),
        stop_requested=lambda: wishes.stop,
        save_requested=wishes.save,
        at_once=wishes.at_once,
        saving=wishes.saving,
        check_owner=check_owner,
        profile=profile,
        cache=cache,
        resident=on_devices,
    )
    return plan, classifier


def _train(
    request: Request,
    plan: Plan,
    classifier: Classifier,
    strategy: tf.distribute.Strategy,
    workers: Workers,
    *,
    started: str,
) -> None:
    """Trains, evaluates, and has the chief write what comes of it."""
    trainer = Trainer(plan, classifier, strategy)
    with _named_errors(plan.data):
        position = trainer.train()
        workers.wait()  # for the weights that the chief has written
        logging.info("evaluating and exporting")
        with plan.at_once():
            finished = _finish(trainer, plan, classifier, strategy)
    if workers.is_chief:
        plan.check_owner()
        devices = [device.name for device in tf.config.list_logical_devices()]
        origin = provenance(plan.data, seed=plan.seed, devices=devices, started=started)
        with plan.at_once():
            _write_results(plan, finished, trainer.rows, position, origin)
        request.mark_done(plan.run, plan.data, digests(own_code(request.recipe, plan.recipe)))


def _fitted(
    request: Request, data: DatasetVersion, directory: storage.Path, strategy: tf.distribute.Strategy
) -> tuple[Recipe, dict[str, Any]]:
    """Returns the recipe, fitted to the devices, and what config.json is to hold."""
    asked = resolve(request, data)
    num_train = data.manifest.num_examples(TRAIN)
    replicas = strategy.num_replicas_in_sync
    cores = tpu_cores(directory, here=replicas if is_tpu(strategy) else 0)
    if cores and not request.recipe.endswith(".json"):
        asked = fit_to_tpu(asked, cores=cores, num_train=num_train, given=overrides.split(request.settings))
        check_schedules(asked, data)
    recipe = fit_batch(asked, replicas=replicas, num_train=num_train, directory=directory)
    check_schedules(recipe, data)
    content = settings(request, data, recipe, asked_batch_size=asked.batch_size, cores=cores)
    return recipe, content


@contextlib.contextmanager
def _named_errors(data: DatasetVersion) -> Iterator[None]:
    """Names the damaged record of any split that made reading fail, see `guards.named_errors`."""
    with contextlib.ExitStack() as stack:
        for split in data.manifest.splits:
            stack.enter_context(named_errors(data, split))
        yield


def _nobody_else() -> None:
    """Stands for a worker that is not the chief, which alone writes."""


def _without_bad_records(
    request: Request, data: DatasetVersion, directory: storage.Path, workers: Workers
) -> DatasetVersion:
    """Returns the dataset, or if some of its records are damaged a copy without them in the run's directory.

    Raises:
      UsageError: the workers do not find the same damage: each would train on other images; or --run is not
        one folder for all of them.
    """
    workers.require_same(dataclasses.asdict(request), what="flags")  # before minutes of reading
    total = sum(map(data.manifest.num_examples, data.manifest.splits))
    with counting(why_unusable, "looking for damage", total=total) as check:
        found = [str(problem) for problem in verify.log_problems(data, check)]
    workers.require_same(found, what="the damaged records of --data")
    if not found:
        return data
    copy = storage.join(directory, "good_records")
    if workers.is_chief:
        with counting(why_unusable, "copying what is not damaged", total=total) as check:
            verify.copy_good_records(data, copy, check)
    workers.wait()
    if not storage.exists(copy):
        raise UsageError(f"{copy}: the chief has written it, but it is not here; --run is one folder for all workers")
    return open_dataset(copy)


def _write_results(
    plan: Plan,
    finished: Finished,
    rows: Sequence[dict[str, Any]],
    position: Position,
    origin: dict[str, Any],
) -> None:
    """Writes what a finished run holds besides its configuration, weights and metrics; prints the result."""
    data, directory, recipe = plan.data, plan.run, plan.recipe
    results = {split: compute_metrics(*score) for split, score in finished.scores.items()}
    answers: dict[str, Predictions] = {}
    for split, (log_probabilities, labels) in finished.scores.items():
        answers[split] = Predictions(
            ids=dataset.example_ids(data, split),
            labels=labels,
            names=data.manifest.labels,
            log_probabilities=log_probabilities,
            temperature=finished.temperature,
        )
        storage.write_atomically(predictions_file(directory, split), answers[split].to_bytes())
        names = [data.manifest.labels[label] for label in labels]
        write_predictions(storage.join(directory, f"predictions-{split}.jsonl"), prediction_rows(answers[split], names))
    if finished.explanations:
        storage.write_atomically(storage.join(directory, explanations.FILE), finished.explanations.to_bytes())
    golden: list[GoldenImage] = []
    also: list[Callable[[pathlib.Path], object]] = []
    if answers:
        split, judged = list(answers.items())[-1]  # test, where there is one
        golden = choose_golden(judged, data, split)
        also = [
            measure_forms(draw_sample(judged, data, split)),
            functools.partial(write_reference, data=data, split=split),
        ]
    export_classifier(
        finished.classifier,
        labels=list(data.manifest.labels),
        height=recipe.image_size,
        width=recipe.image_size,
        preprocess=backbone_info(recipe.backbone).preprocess,
        view=recipe.view,
        directory=storage.join(directory, "export"),
        golden=golden,
        also=also,
    )
    storage.write_atomically(storage.join(directory, "provenance.json"), json.dumps(origin, indent=2) + "\n")
    result = _result(plan, position, rows, results) | {"temperature": finished.temperature}
    storage.write_atomically(storage.join(directory, "result.json"), json.dumps(result, indent=2) + "\n")
    write_report(directory, data)
    for split, metrics in results.items():
        print(f"{split}: accuracy {metrics.accuracy:.4f}, loss {metrics.loss:.4f}, {metrics.examples} images")
    print(result["diagnosis"])
    print(f"report: {storage.join(directory, 'report.html')}  exported model: {storage.join(directory, 'export')}")
    print_next("ask it:", "python -m trainer.predict", f"--run={directory}", "PHOTO.jpg")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """Holds what is exported, and what it says of the images that it was not trained on.

    Attributes:
      classifier: in float32, with the weights that are kept, at its temperature.
      temperature: by which its logits were divided, fitted to validation; 1 where there is none.
      scores: of validation and test, as far as there are such splits: log-probabilities and true labels.
      explanations: of the answers to test, else validation; None without either, and where several machines train.
    """

    classifier: Classifier
    temperature: float
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]]
    explanations: Explanations | None


def _finish(trainer: Trainer, plan: Plan, classifier: Classifier, strategy: tf.distribute.Strategy) -> Finished:
    predictor = trainer.predictor
    with float32_policy() as trained_otherwise:
        if trained_otherwise:
            with strategy.scope():
                classifier = build_from_recipe(
                    plan.recipe, num_classes=plan.data.manifest.num_classes, seed=plan.seed, weights="none"
                )
            predictor = Predictor(plan, classifier, strategy)
        load_best(storage.join(plan.run, "checkpoints"), classifier)
        splits = [split for split in (VALIDATION, TEST) if split in plan.data.manifest.splits]
        scores = {split: _scored(predictor, plan, split) for split in splits}
        explained = None
        if splits and Workers(strategy).machines == 1:
            explained = explain(plan, classifier, predictor, strategy, splits[-1], *scores[splits[-1]])
    temperature = fit_temperature(*scores[VALIDATION]) if VALIDATION in scores else 1.0
    classifier.scale_logits(1 / temperature)
    return Finished(
        classifier=classifier,
        temperature=temperature,
        scores={split: (with_temperature(logits, temperature), truth) for split, (logits, truth) in scores.items()},
        explanations=explained,
    )


def _scored(predictor: Predictor, plan: Plan, split: str) -> tuple[np.ndarray, np.ndarray]:
    examples = plan.data.manifest.num_examples(split)
    with contextlib.closing(Progress(f"evaluating {split}", done=0, total=examples, at_first=COMPILING)) as shown:
        return predictor.log_probabilities(split, told=shown.update)


def _result(
    plan: Plan, position: Position, rows: Sequence[dict[str, Any]], results: dict[str, Metrics]
) -> dict[str, Any]:
    manifest = plan.data.manifest
    judged = results.get(VALIDATION) or results.get(TEST)
    kept = position.best if position.best and plan.recipe.selection == "best" else rows[-1]
    return {
        "dataset": manifest.name,
        "version": manifest.version,
        "recipe": plan.recipe.name,
        "backbone": plan.recipe.backbone,
        "labels": list(manifest.labels),
        "splits": {split: metrics.to_dict(manifest.labels) for split, metrics in results.items()},
        "best": position.best,
        "steps": plan.first_step(len(plan.recipe.phases)),
        "diagnosis": diagnose(
            rows,
            kept=kept,
            confusion=judged.confusion if judged else None,
            labels=manifest.labels,
            class_weights=plan.recipe.class_weights,
        ),
    }
