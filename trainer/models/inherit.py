"""Starts a classifier from an earlier one that was exported: its backbone, and by label name the rows of its head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.command import UsageError
from trainer.models.classifier import LOGITS, Classifier
from trainer.models.exported import read_export, set_backbone


def inherit(classifier: Classifier, labels: Sequence[str], source: str, *, share: float = 1.0) -> str:
    """Gives a classifier the weights of an exported one; returns a line that says which.

    The logits of labels that both have are computed as there; those of others keep their first weights. So does the
    whole head where the earlier one's features are of another width.

    With a `share` below 1 every weight is `share` × the earlier one + (1 − `share`) × its first one: shrink and perturb
    (Ash and Adams 2020, arXiv 1910.08475), where the first weights of a backbone may be those of ImageNet. A model that
    has learnt some images by heart learns less from new ones.

    Args:
      classifier: with its first weights.
      labels: its labels, in the order of the logits.
      source: a run, an export, or a model of a registry.
      share: above 0, at most 1.

    Raises:
      UsageError: there is no such export, it is damaged, or of another backbone.
    """
    models = (classifier.backbone, classifier.head)
    first = [model.get_weights() for model in models]
    line = _copy(classifier, labels, source)
    if share == 1:
        return line
    for model, arrays in zip(models, first, strict=True):
        pairs = zip(model.get_weights(), arrays, strict=True)
        model.set_weights([_between(earlier, array, share) for earlier, array in pairs])
    return f"{line}; {share:.0%} of its weights, and {1 - share:.0%} of new ones"


def _between(earlier: np.ndarray, first: np.ndarray, share: float) -> np.ndarray:
    # In float64, so that equal weights stay equal to the bit. Counters have nothing between them.
    mixed = share * earlier.astype(np.float64) + (1 - share) * first.astype(np.float64)
    return mixed.astype(first.dtype) if first.dtype.kind == "f" else first


def _copy(classifier: Classifier, labels: Sequence[str], source: str) -> str:
    exported = read_export(source)
    try:
        set_backbone(classifier.backbone, exported.backbone)
    except ValueError as error:
        raise UsageError(
            f"init={source}: {error} than this run's; give the --backbone and recipe that it was trained with"
        ) from error
    layers = {layer.name: layer for layer in classifier.head.layers if layer.weights}
    (old_kernel, old_bias), (kernel, bias) = exported.head[LOGITS], layers[LOGITS].get_weights()
    hidden = {name: arrays for name, arrays in exported.head.items() if name != LOGITS}
    shapes = {name: [tuple(v.shape) for v in layer.weights] for name, layer in layers.items() if name != LOGITS}
    if {name: [a.shape for a in arrays] for name, arrays in hidden.items()} != shapes or len(old_kernel) != len(kernel):
        return f"starting from the backbone of {source}; its head is of another kind and begins anew"
    for name, arrays in hidden.items():
        layers[name].set_weights(arrays)
    known = [label for label in labels if label in exported.labels]
    here, there = ([names.index(label) for label in known] for names in (list(labels), exported.labels))
    kernel[:, here], bias[here] = old_kernel[:, there], old_bias[there]
    layers[LOGITS].set_weights([kernel, bias])
    new = [label for label in labels if label not in known]
    return f"starting from {source}: it knows {len(known)} of {len(labels)} labels" + (
        f", {len(new)} begin anew, {new[0]} among them" if new else ""
    )
