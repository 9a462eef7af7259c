"""Traces the training step and the evaluation under the real TPUStrategy on a machine without a TPU.

    python -m tests.trainer.tpu_tracing RECIPE[:PHASE][+KEY=VALUE…][+cache=device] …

TPUStrategy asks its resolver for a list of devices only. It is handed eight TPU cores, which are then renamed to eight
logical CPUs, on which eager variables can be made. Everything else is TensorFlow's own: variables with their
aggregations, the distributed iterator, tpu.replicate inside of the loop, merge_call, cross-replica sums. What comes of
it can be looked at, not run. Prints one line of JSON for every phase and for the evaluation of each argument.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import kernels
from tensorflow.python.tpu import tpu_system_metadata

from pipeline import dataset
from pipeline.augment.config import AugmentConfig
from pipeline.augment.render import finish
from pipeline.resident import Resident
from trainer.models import backbone_info
from trainer.preflight.facts import published_counts
from trainer.preflight.feeding import write_sample
from trainer.recipes import overrides
from trainer.recipes.load import load_recipe
from trainer.recipes.recipe import DataFacts
from trainer.rundir import fit_batch
from trainer.train.evaluation import Evaluator
from trainer.train.features import FeatureCache
from trainer.train.feed import distribute
from trainer.train.model import build_from_recipe, set_precision
from trainer.train.step import TrainStep

REPLICAS = 8
_COLLECTIVES = ("CrossReplicaSum", "AllToAll", "CollectivePermute")
_GONE_ON_TPU = {"TPUReplicateMetadata", "NoOp"}  # TensorFlow's bridge takes them out before it compiles
_64_BITS = (tf.float64, tf.int64, tf.uint64)
# What reaches out of the compiled program, to the host.
_HOST = ("Host", "OutsideCompilation", "PyFunc", "Infeed", "Outfeed", "XlaSendFromHost", "XlaRecvAtHost", "Print")


def fake_strategy(replicas: int) -> tf.distribute.Strategy:
    """Makes a TPUStrategy whose cores are logical CPUs; before anything else has used a device."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    device = collections.namedtuple("device", "name device_type")
    root = "/job:localhost/replica:0/task:0/device"

    class Resolver:
        tpu_hardware_feature = None

        def get_tpu_system_metadata(self) -> Any:
            cores = tuple(device(f"{root}:TPU:{number}", "TPU") for number in range(replicas))
            return tpu_system_metadata.TPUSystemMetadata(
                num_cores=replicas, num_hosts=1, num_of_cores_per_host=replicas, topology=None, devices=cores
            )

    strategy = tf.distribute.TPUStrategy(Resolver())
    cpus = [f"{root}:CPU:{number}" for number in range(replicas)]
    extended = strategy.extended
    extended._tpu_devices = np.array([[cpu] for cpu in cpus], dtype=object)
    extended._device_input_worker_devices = collections.OrderedDict({cpus[0]: cpus})
    extended._host_input_worker_devices = collections.OrderedDict({cpus[0]: [cpus[0]] * replicas})
    return strategy


def tpu_kernels() -> dict[str, list[dict[str, set[int]]]]:
    """Lists the ops that this TensorFlow compiles for TPUs, with their kernels' types; none without tensorflow-tpu."""
    with contextlib.suppress(tf.errors.OpError):  # registers the kernels of XLA's devices
        tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1.0))
    found: dict[str, list[dict[str, set[int]]]] = collections.defaultdict(list)
    for kernel in kernels.get_all_registered_kernels().kernel:
        if kernel.device_type == "XLA_TPU_JIT":
            found[kernel.op].append({c.name: set(c.allowed_values.list.type) for c in kernel.constraint})
    return found


def _types_of(node: Any) -> list[tf.DType]:
    return [tf.dtypes.as_dtype(t) for a in node.attr.values() for t in ([a.type] if a.type else a.list.type)]


def _has_kernel(node: Any, known: dict[str, list[dict[str, set[int]]]]) -> bool:
    def fits(constraints: dict[str, set[int]]) -> bool:
        for name, allowed in constraints.items():
            attribute = node.attr.get(name)
            types = [] if attribute is None else [attribute.type] if attribute.type else attribute.list.type
            if allowed and any(kind not in allowed for kind in types):
                return False
        return True

    return node.op in _GONE_ON_TPU or any(map(fits, known.get(node.op, ())))


@dataclasses.dataclass
class Cluster:
    """Counts what a function places on the chips.

    Attributes:
      ops: all of them.
      collectives: op → how many.
      summed: what each sum over the replicas adds up, type and dimensions.
      strings: ops that touch text.
      wide: ops on 64-bit numbers, which the chips take two registers for.
      unknown_shapes: ops with an output whose size is not known before it runs.
      on_host: ops that reach out to the host.
      no_kernel: op with its types, where the installed TensorFlow has kernels for TPUs but not this one.
    """

    ops: int = 0
    collectives: dict[str, int] = dataclasses.field(default_factory=dict)
    summed: list[str] = dataclasses.field(default_factory=list)
    strings: list[str] = dataclasses.field(default_factory=list)
    wide: list[str] = dataclasses.field(default_factory=list)
    unknown_shapes: list[str] = dataclasses.field(default_factory=list)
    on_host: list[str] = dataclasses.field(default_factory=list)
    no_kernel: list[str] = dataclasses.field(default_factory=list)


def cluster_of(function: Any, known: dict[str, list[dict[str, set[int]]]]) -> Cluster:
    """Looks at all that a concrete function runs inside of tpu.replicate, functions that are called from there too."""
    graph = function.graph.as_graph_def(add_shapes=True)
    library = {f.signature.name: f for f in graph.library.function}
    found, seen = Cluster(), set()

    def visit(node: Any) -> None:
        found.ops += 1
        types = _types_of(node)
        if node.op in _COLLECTIVES:
            found.collectives[node.op] = found.collectives.get(node.op, 0) + 1
        if node.op == "CrossReplicaSum":
            (shape,) = node.attr["_output_shapes"].list.shape
            found.summed.append(f"{types[0].name}{[side.size for side in shape.dim]}")
        for problem, ops in (
            (tf.string in types, found.strings),
            (any(kind in _64_BITS for kind in types), found.wide),
            (any(word in node.op for word in _HOST) or "_xla_outside_compilation" in node.attr, found.on_host),
            (_unknown(node), found.unknown_shapes),
            (bool(known) and not _has_kernel(node, known), found.no_kernel),
        ):
            if problem:
                ops.append(node.op)
        for key, attribute in node.attr.items():
            for called in [attribute.func.name, *(function.name for function in attribute.list.func)]:
                if called in library and called not in seen and not key.startswith("_"):
                    seen.add(called)
                    for inner in library[called].node_def:
                        visit(inner)

    for nodes in (graph.node, *(f.node_def for f in graph.library.function)):
        for node in nodes:
            if "_tpu_replicate" in node.attr:
                visit(node)
    return found


def _unknown(node: Any) -> bool:
    shapes = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else []
    return any(shape.unknown_rank or any(side.size < 0 for side in shape.dim) for shape in shapes)


def _trace(job: str, strategy: tf.distribute.Strategy, known: dict[str, Any]) -> None:
    (name, _, wanted), settings = job.split("+", maxsplit=1)[0].partition(":"), job.split("+")[1:]
    counts = published_counts(name)
    facts = DataFacts(num_train=counts.train, num_classes=counts.classes, max_side=counts.side)
    on_chip = "cache=device" in settings
    recipe = overrides.override(
        load_recipe(name, facts), ["weights=none", *(setting for setting in settings if setting != "cache=device")]
    )
    recipe = fit_batch(recipe, replicas=REPLICAS)
    set_precision(recipe, strategy)
    with strategy.scope():
        classifier = build_from_recipe(recipe, num_classes=counts.classes, seed=0)
    side, mode, batch = recipe.image_size, backbone_info(recipe.backbone).preprocess, recipe.batch_size
    data_options: dict[str, Any] = {"height": side, "width": side, "preprocess": mode, "global_batch_size": batch}
    with tempfile.TemporaryDirectory() as directory:
        data = write_sample(pathlib.Path(directory), count=2 * batch, height=side, width=side, classes=counts.classes)
        data_options["cache"], resident = "auto", None
        if on_chip:
            with strategy.scope():
                data_options["cache"], resident = "device", Resident.load(data, height=side, width=side)
        for phase in recipe.phases:
            if phase.solves or (wanted and phase.name != wanted):
                continue
            with strategy.scope():
                step = TrainStep(
                    classifier=classifier,
                    recipe=recipe,
                    phase=phase,
                    strategy=strategy,
                    seed=0,
                    rates=phase.learning_rates(steps_per_epoch=10),
                    class_weights=np.ones(counts.classes, np.float32),
                    resident=resident,
                )
            if phase.cached_features:
                width = classifier.backbone.output.shape[-1]
                split = np.zeros((2 * batch, width), np.float32), np.zeros(2 * batch, np.int32)
                cache = FeatureCache(splits={"train": split}, batch_size=batch, seed=0)
                make = cache.train_data("train", epoch=0, skip_batches=0)
            else:
                augment = recipe.augmentation(phase.augment)

                def make(host: Any, augment: AugmentConfig = augment) -> tf.data.Dataset:
                    return dataset.train_dataset(
                        data, "train", augment=augment, seed=0, epoch=0, host=host, **data_options
                    )

            batches = iter(distribute(strategy, make))
            function = step._run.get_concrete_function(batches, tf.constant(0), tf.constant(2))
            trained = sum(map(len, step._groups))
            _tell(f"{job} {phase.name}", function, known, trained, batches._enable_get_next_as_optional)
            if step.average:
                _tell(f"{job} swap of {phase.name}", step._swap.get_concrete_function(), known, 0, False)
        plain = recipe.augmentation(False)
        evaluator = Evaluator(
            strategy,
            lambda x: classifier.head(classifier.lean_backbone(x, training=False)),
            lambda batch: finish(batch, plain, mode, resident),
        )
        data_options["on_accelerator"] = plain.on_accelerator
        per_host = distribute(strategy, lambda host: dataset.eval_dataset(data, "train", host=host, **data_options))
        batches = iter(per_host)
        function = evaluator._run.get_concrete_function(batches, tf.constant(2))
        _tell(f"{job} evaluation", function, known, 0, batches._enable_get_next_as_optional)


def _tell(title: str, function: Any, known: dict[str, Any], trained: int, optional: bool) -> None:
    found = dataclasses.asdict(cluster_of(function, known))
    print(json.dumps({"title": title, "trained": trained, "optional": optional, "kernels": len(known), **found}))


def main(jobs: list[str]) -> None:
    strategy, known = fake_strategy(REPLICAS), tpu_kernels()
    for job in jobs:
        _trace(job, strategy, known)


if __name__ == "__main__":
    main(sys.argv[1:])
