"""Tests whether new images are like those before them: labels, numbers and features, given their labels. NumPy only.

p-values are by permutation, so they hold for any number of images: a test at 1 % warns in vain once in a hundred times.
Numbers and features are permuted within labels: more photos of one class are no other kind of photos.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.linear.probe import deal_folds, out_of_fold

_AT_ONCE = 500  # permutations, for memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shift:
    """Holds how far two groups of images differ in one respect.

    Attributes:
      distance: in the unit of its test.
      p_value: how often chance alone makes so large a distance.
    """

    distance: float
    p_value: float


def total_variation(first: np.ndarray, second: np.ndarray) -> float:
    """Returns half the sum of differences between the shares of two vectors of counts: 0 (alike) to 1."""
    return float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)


def label_shift(before: np.ndarray, new: np.ndarray, *, seed: int, permutations: int = 9_999) -> Shift:
    """Compares two vectors of label counts, int [C] each, by the G statistic; the distance is the total variation."""
    random = np.random.default_rng(seed)
    pooled = before + new
    drawn = random.multivariate_hypergeometric(pooled, int(new.sum()), size=permutations)
    observed = _g(new[np.newaxis], pooled)[0]
    return Shift(distance=total_variation(before, new), p_value=_p_value(observed, _g(drawn, pooled)))


def _g(new: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """Returns the G statistic of each row of counts, int [P, C], against the rest of the pooled counts."""
    total = pooled.sum()
    found = np.zeros(len(new))
    for counts in (new, pooled - new):
        expected = pooled * counts.sum(axis=1, keepdims=True) / total
        ratio = np.divide(counts, expected, out=np.ones(counts.shape), where=counts > 0)
        found += 2 * (counts * np.log(ratio)).sum(axis=1)
    return found


def kolmogorov_smirnov(
    columns: Mapping[str, np.ndarray], labels: np.ndarray, new: np.ndarray, *, seed: int, permutations: int = 9_999
) -> dict[str, Shift]:
    """Compares the distributions of numbers in two groups; the distance is Kolmogorov's and Smirnov's.

    Args:
      columns: name → float [N].
      labels: int [N], within which is permuted.
      new: bool [N], which images are of the second group.
      seed: of the permutations, which all columns share.
      permutations: how many.

    Returns:
      name → distance and p-value.
    """
    count = int(new.sum())
    orders = {name: np.argsort(values, kind="stable") for name, values in columns.items()}
    # Equal values count together.
    ends = {name: np.append(np.diff(columns[name][order]) != 0, True) for name, order in orders.items()}

    def distances(name: str, groups: np.ndarray) -> np.ndarray:
        steps = np.where(groups[:, orders[name]], 1 / count, -1 / (len(new) - count))
        return np.abs(np.cumsum(steps, axis=1)[:, ends[name]]).max(axis=1)

    permuted: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for groups in within_labels(labels, new, seed=seed, permutations=permutations):
        for name, found in permuted.items():
            found.append(distances(name, groups))
    observed = {name: float(distances(name, new[np.newaxis])[0]) for name in columns}
    return {
        name: Shift(distance=distance, p_value=_p_value(distance, np.concatenate(permuted[name])))
        for name, distance in observed.items()
    }


def maximum_mean_discrepancy(
    features: np.ndarray, labels: np.ndarray, new: np.ndarray, *, seed: int, permutations: int = 999
) -> Shift:
    """Compares features of two groups by the unbiased squared MMD (Gretton et al. 2012, section 3.1), label by label.

    The kernel is Gaussian, its width the median of all distances; features count by their direction. Images of the
    first group are weighted so that their labels are as frequent as in the second.

    Args:
      features: float [N, F].
      labels: int [N]; each occurs in both groups.
      new: bool [N], which images are of the second group.
      seed: of the permutations.
      permutations: how many.
    """
    directions = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    squared = np.maximum(2 - 2 * directions @ directions.T, 0.0)
    kernel = np.exp(-squared / max(float(np.median(squared[np.triu_indices(len(squared), 1)])), 1e-12))
    np.fill_diagonal(kernel, 0.0)
    classes = int(labels.max()) + 1
    of_new, of_all = (np.bincount(labels[part], minlength=classes) for part in (new, np.ones(len(new), bool)))
    count = int(new.sum())
    weights = (of_new / count / np.maximum(of_all - of_new, 1))[labels]

    def discrepancies(groups: np.ndarray) -> np.ndarray:
        second, first = groups / count, np.where(groups, 0.0, weights)
        found = -2 * ((second @ kernel) * first).sum(axis=1)
        for part in (first, second):
            pairs = 1 - (part**2).sum(axis=1)  # the weight of all pairs of different images
            found += ((part @ kernel) * part).sum(axis=1) / np.where(pairs > 0, pairs, 1.0)
        return found

    found = [discrepancies(groups) for groups in within_labels(labels, new, seed=seed, permutations=permutations)]
    observed = discrepancies(new[np.newaxis])[0]
    return Shift(distance=float(observed), p_value=_p_value(observed, np.concatenate(found)))


def in_both(labels: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Says of which images the label occurs in both groups, bool [N]."""
    return np.isin(labels, np.intersect1d(labels[new], labels[~new]))


def within_labels(labels: np.ndarray, new: np.ndarray, *, seed: int, permutations: int) -> Iterator[np.ndarray]:
    """Yields permutations of `new`, bool [P, N] each, that keep how many images of each label are new."""
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for start in range(0, permutations, _AT_ONCE):
        groups = np.zeros((min(_AT_ONCE, permutations - start), len(labels)), bool)
        for of_label in members:
            count = int(new[of_label].sum())
            if not 0 < count < len(of_label):
                groups[:, of_label] = count > 0
                continue
            drawn = random.random((len(groups), len(of_label)), np.float32).argpartition(count, axis=1)[:, :count]
            np.put_along_axis(groups, of_label[drawn], True, axis=1)
        yield groups


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Returns p-values adjusted by Holm (1979): the chance of any false alarm among them stays at the level."""
    order = sorted(p_values, key=lambda name: p_values[name])
    adjusted, highest = {}, 0.0
    for rank, name in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def stratified_auc(scores: np.ndarray, labels: np.ndarray, new: np.ndarray) -> float:
    """Returns how often a new image scores higher than another one of its label, ties counting half; 0.5 is chance.

    Args:
      scores: float [N].
      labels: int [N]; at least one occurs in both groups.
      new: bool [N].
    """
    won, pairs = 0.0, 0
    for label in np.unique(labels):
        of_new, of_old = (np.sort(scores[(labels == label) & part]) for part in (new, ~new))
        below, above = (np.searchsorted(of_old, of_new, side=side).sum() for side in ("left", "right"))
        won += (below + above) / 2
        pairs += len(of_new) * len(of_old)
    return float(won / pairs)


def separability(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, new: np.ndarray, *, strength: float, seed: int
) -> float | None:
    """Returns how well a classifier tells new images of a label from the others, of images that it has not seen.

    Args:
      features: float [N, F].
      labels: int [N].
      groups: int [N]; equal for images that look alike.
      new: bool [N].
      strength: of the classifier's l2, see `fit_head`.
      seed: of the folds.

    Returns:
      The area under its ROC curve, 0.5 is chance; None where no label has images of both groups to ask about.
    """
    folds = deal_folds(2 * labels + new, groups, seed=seed)
    found = out_of_fold(features, new.astype(int), folds, num_classes=2, strength=strength)
    asked = np.flatnonzero(folds >= 0)
    asked = asked[in_both(labels[asked], new[asked])]
    if not len(asked):
        return None
    return stratified_auc(found[asked, 1] - found[asked, 0], labels[asked], new[asked])


def sample_positions(new: np.ndarray, *, most: int, seed: int) -> np.ndarray:
    """Draws at most so many images of each group, int [M], sorted: what is compared pair by pair stays small."""
    random = np.random.default_rng(seed)
    drawn: Sequence[np.ndarray] = [random.permutation(np.flatnonzero(part))[:most] for part in (new, ~new)]
    return np.sort(np.concatenate(drawn))


def _p_value(observed: float, permuted: np.ndarray) -> float:
    """Returns the share of permutations that are as far from alike, the one that happened counted as one of them."""
    return float((1 + np.count_nonzero(permuted >= observed - 1e-12)) / (1 + len(permuted)))
