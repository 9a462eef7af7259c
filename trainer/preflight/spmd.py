"""Stands for a whole slice when a step is lowered: one replica's program, with what it exchanges with the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

DEVICE = "/device:CPU:0"
# Strategies are made to be extended, but TensorFlow exports only their objects.
_OneDevice: Any = type(tf.distribute.OneDeviceStrategy(DEVICE).extended)


class SliceStrategy(tf.distribute.Strategy):
    """Traces a replica as `TPUStrategy` does, on one device, for any number of replicas.

    All replicas of a slice run one program, so it is traced once, whatever the slice; each sum over the replicas is an
    all-reduce of XLA's. Differs from `TPUStrategy` in one exchange: there a replica gets the step counter, one number,
    from the first one.
    """

    def __init__(self, replicas: int) -> None:
        super().__init__(_Slice(self, replicas))


class _Slice(_OneDevice):
    def __init__(self, strategy: SliceStrategy, replicas: int) -> None:
        super().__init__(strategy, DEVICE)
        self._replicas = replicas

    @property
    def _num_replicas_in_sync(self) -> int:
        return self._replicas

    def _call_for_each_replica(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        replica = tf.cast(gen_xla_ops.xla_replica_id(), tf.int32)
        with tf.device(DEVICE), tf.distribute.ReplicaContext(self._container_strategy(), replica):
            return fn(*args, **kwargs)

    def _reduce_to(self, reduce_op: tf.distribute.ReduceOp, value: tf.Tensor, destinations: Any, options: Any) -> Any:
        del destinations, options
        if reduce_op == tf.distribute.ReduceOp.MEAN:  # scaled first, as TPUStrategy does it
            value = value * (1.0 / self._replicas)
        # No group is one group of all replicas, so the program does not grow with the slice.
        everyone = tf.zeros([0, 0], tf.int32)
        return gen_xla_ops.xla_all_reduce(input=value, group_assignment=everyone, reduce_op="Add", mode="CrossReplica")
