"""Mirrors a registry to an MLflow server: passes become runs, models become versions, the champion an alias.

The files stay the truth: nothing is read back, and what the server has already is left alone, so that a mirror that was
missed, or cut off, is caught up with by the next one.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.command import CommandError, UsageError, first_line
from pipeline.format import storage
from pipeline.format.local_copy import local_copy, local_folder
from retrain import registry
from retrain.curate import settings_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "champion"
_PASS, _NUMBER, _WHOLE = "pass_id", "number", "mirrored"  # tags
_METRICS = ("accuracy", "test_images", "champion_accuracy", "difference", "p_value", "log_loss")
_LONGEST = 500  # characters of a parameter that a server takes
_MOST_PARAMETERS = 100  # in one call
_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


def require_library() -> None:
    """Raises UsageError where MLflow's library is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise UsageError("mlflow: its library is not installed; pip install 'tpu-retraining[mlflow]'")


def mirror(root: str, server: str) -> str:
    """Brings an MLflow server up to date with a registry; returns a line that says what was new.

    Args:
      root: the registry.
      server: tracking URI.

    Raises:
      UsageError: the library is not installed.
      CommandError: the server cannot be reached, or refuses something.
    """
    require_library()
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return _mirror(MlflowClient(tracking_uri=server, registry_uri=server), root)
    except (MlflowException, OSError) as error:
        raise CommandError(f"mlflow: {server}: {first_line(error)}; the next pass catches up") from error


def _mirror(client: MlflowClient, root: str) -> str:
    passes = registry.passes(root)
    if not passes:
        return "mlflow: nothing to mirror yet"
    name = str(passes[-1].get("name", os.path.basename(root)))
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    runs = [run for record in passes if (run := _mirror_pass(client, experiment, root, record))]
    versions = list(_mirror_models(client, name, experiment, root))
    _point(client, name, registry.champion(root))
    return f"mlflow: {len(runs)} passes and {len(versions)} models are new there"


def _find(client: MlflowClient, experiment: str, pass_id: str) -> Any:
    found = client.search_runs([experiment], filter_string=f"tags.{_PASS} = '{pass_id}'", max_results=1)
    return found[0] if found else None


def _mirror_pass(client: MlflowClient, experiment: str, root: str, record: Mapping[str, Any]) -> str | None:
    """Makes a run of a pass; returns its id, or None where the server has all of it."""
    when = int(datetime.datetime.fromisoformat(record["time"]).timestamp() * 1e3)
    run = _find(client, experiment, record[_PASS])
    if run and run.data.tags.get(_WHOLE):
        return None
    tags = {_PASS: record[_PASS], "decision": str(record["decision"]), "who": str(record.get("who", ""))}
    if run is None:
        run = client.create_run(experiment, start_time=when, tags=tags, run_name=os.path.basename(record["run"]))
    number = run.info.run_id
    for metric, value in record.get("figures", {}).items():
        if metric in _METRICS:
            client.log_metric(number, metric, float(value), timestamp=when, step=0)
    model = storage.join(root, str(record["model"])) if "model" in record else ""
    folder = model if model and storage.exists(model) else str(record["run"])
    _log_settings(client, number, settings_of(folder))
    for file in _documents(folder, record):
        with local_copy(file) as path:
            client.log_artifact(number, path)
    if folder == model:
        with local_folder(model) as path:
            client.log_artifacts(number, os.path.join(path, registry.SAVED_MODEL), artifact_path="model/saved_model")
            for name in (registry.LABELS_FILE, registry.PROMOTION_FILE):
                client.log_artifact(number, os.path.join(path, name), artifact_path="model")
    client.set_tag(number, "reasons", "; ".join(record["reasons"])[:5_000])
    client.set_tag(number, _WHOLE, "yes")
    client.set_terminated(number, end_time=when)
    return number


def _log_settings(client: MlflowClient, run: str, settings: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    parameters = [Param(key.replace(":", "_"), json.dumps(value)[:_LONGEST]) for key, value in settings.items()]
    for start in range(0, len(parameters), _MOST_PARAMETERS):
        client.log_batch(run, params=parameters[start : start + _MOST_PARAMETERS])


def _documents(folder: str, record: Mapping[str, Any]) -> Iterator[str]:
    pages = str(record.get("pages", ""))
    for name in ("report.html", "model_card.md", "result.json", "gate-model.html", "gate-data.html", "gate-data.json"):
        places = (storage.join(place, name) for place in (folder, pages) if place)
        yield from [file for file in places if storage.exists(file)][:1]


def _mirror_models(client: MlflowClient, name: str, experiment: str, root: str) -> Iterator[int]:
    """Makes versions of the published models that the server lacks; yields their numbers."""
    models = registry.models(root)
    if models and not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
    known = {version.tags.get(_NUMBER) for version in client.search_model_versions(f"name = '{name}'")}
    for model in models:
        run = _find(client, experiment, model.promotion().get(_PASS, ""))
        if str(model.number) not in known and run:
            source = f"{run.info.artifact_uri}/model"
            client.create_model_version(name, source, run.info.run_id, tags={_NUMBER: str(model.number)})
            yield model.number


def _point(client: MlflowClient, name: str, champion: registry.Model | None) -> None:
    for version in client.search_model_versions(f"name = '{name}'"):
        if champion and version.tags.get(_NUMBER) == str(champion.number):
            client.set_registered_model_alias(name, ALIAS, version.version)
            return
