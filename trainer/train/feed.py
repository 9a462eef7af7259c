"""Splits the pipeline's host batches into what each replica gets, and makes such batches of cached features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipeline.batching import HostSlice


def distribute(
    strategy: tf.distribute.Strategy, make_dataset: Callable[[HostSlice], tf.data.Dataset]
) -> tf.distribute.DistributedDataset:
    """Hands every host its slice of each global batch, split over its replicas in order."""

    def per_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        host = HostSlice(index=context.input_pipeline_id, count=context.num_input_pipelines)
        return _split(make_dataset(host), context.num_replicas_in_sync // context.num_input_pipelines)

    return strategy.distribute_datasets_from_function(per_host)


def _split(dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    if replicas == 1:
        return dataset

    def reshape(tensor: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tensor, [replicas, tensor.shape[0] // replicas, *tensor.shape[1:]])

    return dataset.map(lambda batch: tf.nest.map_structure(reshape, batch)).unbatch()


def feature_batches(
    features: np.ndarray | tf.Tensor,
    labels: np.ndarray | tf.Tensor,
    *,
    order: np.ndarray,
    batch_size: int,
    skip_batches: int,
    host: HostSlice,
) -> tf.data.Dataset:
    """Batches cached features (or images in memory) in the shape of the pipeline's image batches.

    Args:
      features: float32 [N, …].
      labels: int32 [N].
      order: int [N], a permutation: which example comes when.
      batch_size: global; the last batch is filled up with examples of weight 0.
      skip_batches: number of global batches to leave out at the start.
      host: which slice of each global batch is wanted.
    """
    batches = -(-len(order) // batch_size)
    padded = np.resize(order, batches * batch_size).reshape(batches, batch_size)
    weight = (np.arange(batches * batch_size) < len(order)).astype(np.float32).reshape(batches, batch_size)
    share = batch_size // host.count
    columns = slice(host.index * share, (host.index + 1) * share)
    all_features, all_labels = tf.convert_to_tensor(features), tf.convert_to_tensor(labels, tf.int32)

    def gather(indices: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"image": tf.gather(all_features, indices), "label": tf.gather(all_labels, indices), "weight": weight}

    rows = (padded[skip_batches:, columns].astype(np.int32), weight[skip_batches:, columns])
    options = tf.data.Options()
    options.autotune.enabled = False  # as in pipeline.dataset: an iterator that goes away would wait for the tuner
    return tf.data.Dataset.from_tensor_slices(rows).map(gather).prefetch(2).with_options(options)
