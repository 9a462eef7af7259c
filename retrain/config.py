"""Reads the configuration file of a retraining pass: YAML in, a validated frozen dataclass out."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipeline.command import UsageError, nearest
from retrain.limits import DataGateConfig, GateConfig

HOOKS = ("on_promote", "on_reject", "on_hold")
Scalar = str | int | float | bool

# An image must not move from train to test between two rebuilds: the champion would be scored on what it has learned.
# `hash` decides by the image's own content (or its group of near duplicates); `rank` shares the images out exactly, and
# so shares them out anew whenever others come.
_BUILD_DEFAULTS: Mapping[str, Scalar] = {"split_by": "hash"}
# Flags that this file sets by keys of its own.
_OWN_KEYS: Mapping[str, Mapping[str, str]] = {
    "build": {"source": "source", "input": "input", "output": "data", "seed": "seed"},
    "check": {"data": "data", "output": "runs", "seed": "seed", "against": "models"},
    "train": {"data": "data", "run": "runs", "workdir": "runs", "recipe": "recipe", "seed": "seed", "set": "settings"},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """Says what one pass does. The keys of the YAML file are these attributes.

    Attributes:
      input: what the source reads: a folder of class folders for `source: folder`.
      data: dataset root, written by the builder.
      runs: folder of training runs, one for each (dataset content, training configuration).
      models: the registry: numbered models, the `champion` pointer, the decision log; data, runs and models may lie on
        gs:// or s3://.
      gate: when a challenger is promoted.
      data_gate: when a dataset is held, before anything is trained on it.
      check: further flags of trainer.check, flag → value (`recipe: quick`); false: images are not looked at.
      source: source of the builder.
      recipe: recipe of the trainer, by its name or its file (`.py`, or `.json` of a run).
      seed: seed of the build's split and of the training.
      seeds: how many models a pass trains, from `seed` on: their answers are averaged, and the one that is best on
        validation images is published.
      init: `cold`: training starts from the recipe's weights; `champion`: from the champion's.
      init_share: how much of the champion's weights it starts with; the rest is the recipe's (shrink and perturb).
      cold_every: with `init: champion`, every so many passes start cold all the same.
      golden: folder of one folder a label, of photos that every model must answer rightly; none if not given.
      mlflow: tracking URI of an MLflow server, to which passes are mirrored; none if not given.
      approval: `automatic`, or `manual`: a challenger that passes the gate is published, and becomes the champion by
        `retrain.models promote`.
      retries: how often a command that ended with 75 (pre-empted, locked) is run again within a pass.
      retry_seconds: to wait before the first retry; doubled each time.
      on_promote: shell commands and webhooks after a promotion, see `retrain.outcome.tell`.
      on_reject: the same after a challenger was not promoted.
      on_hold: the same after data were held.
      build: further flags of the builder, flag → value; `split_by: hash` unless given.
      train: further flags of the trainer, flag → value (`tpu: local`).
      settings: overrides of the recipe, key → value.
    """

    input: str
    data: str
    runs: str
    models: str
    gate: GateConfig
    data_gate: DataGateConfig = dataclasses.field(default_factory=DataGateConfig)
    check: Mapping[str, Scalar] | bool = dataclasses.field(default_factory=dict)
    source: str = "folder"
    recipe: str = "photos"
    seed: int = 0
    seeds: int = 1
    init: str = "cold"
    init_share: float = 1.0
    cold_every: int = 5
    golden: str | None = None
    mlflow: str | None = None
    approval: str = "automatic"
    retries: int = 0
    retry_seconds: int = 60
    on_promote: Sequence[str] = ()
    on_reject: Sequence[str] = ()
    on_hold: Sequence[str] = ()
    build: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    train: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Scalar] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("source", "recipe"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key):
                raise ValueError(f"{key} must be a name, got {getattr(self, key)!r}")
        self._check_numbers_and_choices()
        if self.init == "champion" and "init" in self.train:
            raise ValueError("train.init names a model to start from, and init: champion another one; leave one out")
        if self.gate.pools and self.settings.get("selection", "last") != "last":
            raise ValueError("gate.evidence: test+validation needs settings.selection: last, or none")
        for key in HOOKS:
            value = getattr(self, key)
            if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
                raise ValueError(f"{key} must be a list of commands and addresses, got {value!r}")
        sections = {key: getattr(self, key) for key in ("build", "train", "settings")}
        for key, section in (sections | {"check": {} if self.check is False else self.check}).items():
            _check_section(key, section)
        object.__setattr__(self, "build", {**_BUILD_DEFAULTS, **self.build})

    def _check_numbers_and_choices(self) -> None:
        least = {"seed": 0, "retries": 0, "retry_seconds": 0, "seeds": 1, "cold_every": 1}
        for key, fewest in least.items():
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < fewest:
                raise ValueError(f"{key} must be a whole number, {fewest} or more, got {value!r}")
        for key, known in (("approval", ("automatic", "manual")), ("init", ("cold", "champion"))):
            if getattr(self, key) not in known:
                raise ValueError(f"{key} must be {known[0]} or {known[1]}, got {getattr(self, key)!r}")
        if isinstance(self.init_share, bool) or not isinstance(self.init_share, (int, float)):
            raise ValueError(f"init_share must be a number, got {self.init_share!r}")
        if not 0 < self.init_share <= 1:
            raise ValueError(f"init_share must be above 0 and at most 1, got {self.init_share!r}")

    @property
    def check_flags(self) -> Mapping[str, Scalar]:
        """Returns the further flags of trainer.check."""
        return self.check if isinstance(self.check, Mapping) else {}


def _check_section(key: str, section: object) -> None:
    """Raises ValueError if a section is not one of single values, or sets what has a key of its own."""
    if not isinstance(section, Mapping):
        raise ValueError(f"{key} must hold `name: value` lines, got {section!r}")
    for name, value in section.items():
        if not isinstance(name, str) or not isinstance(value, (str, int, float, bool)):
            raise ValueError(f"{key}.{name} must be a single value, got {value!r}")
        if own := _OWN_KEYS.get(key, {}).get(name):
            raise ValueError(f"{key}.{name} is not set there; use the key `{own}:` at the top")


def _from_mapping(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: expected `key: value` lines, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            known = ", ".join(fields)
            raise UsageError(f'{where}: unknown key "{key}" (known: {known}).{nearest(str(key), list(fields))}')
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f'{where}: the key "{name}" is missing')
    try:
        return cls(**values)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def _resolve(value: Any, key: str, base: pathlib.Path) -> str:
    """Makes a path absolute: `~` expanded, relative ones seen from the configuration file; gs:// and the like stay."""
    if not isinstance(value, str) or not value:
        raise UsageError(f"{key} must be a path, got {value!r}")
    if "://" in value:
        return value
    return str((base / pathlib.Path(value).expanduser()).resolve())


def load_config(path: str) -> RetrainConfig:
    """Reads a configuration file.

    Raises:
      UsageError: no such file, not YAML, an unknown key (the nearest name is suggested) or a bad value.
    """
    file = pathlib.Path(path).expanduser()
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config={path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config={path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, Mapping):
        raise UsageError(f"--config={path}: expected `key: value` lines")
    values = dict(values)
    base = file.resolve().parent
    for key in ("input", "data", "runs", "models", "golden"):
        if key in values:
            values[key] = _resolve(values[key], f"{path}: {key}", base)
    recipe = values.get("recipe")
    if isinstance(recipe, str) and recipe.endswith((".py", ".json")):
        values["recipe"] = _resolve(recipe, f"{path}: recipe", base)
    for key in ("runs", "models"):
        if key in values:
            values[key] = values[key].rstrip("/")
    sections: Mapping[str, type] = {"gate": GateConfig, "data_gate": DataGateConfig}
    for key, kind in sections.items():
        if key in values:
            values[key] = _from_mapping(kind, values[key], f"{path}: {key}")
    config: RetrainConfig = _from_mapping(RetrainConfig, values, path)
    return config
