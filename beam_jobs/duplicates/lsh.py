"""Finds pairs of similar perceptual hashes by banded locality-sensitive hashing: compares what agrees in one band.

A band is a choice of 17 of the hash's signs. Every image stands in one bucket a band. It looks for its partners in the
buckets where it would stand itself if it were cropped to each of `hashing.WINDOWS`; mirroring does not move an image
to another bucket. (Gionis, Indyk, Motwani 1999, with the query's side made the rich one: what is stored, sorted and
shuffled is one row an image.) Memory: about 400 bytes an image where one worker has all bands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.images import hashing

BANDS = 20
ID_BYTES = 16
BUCKET_BITS = 17
SKETCH = np.dtype([("hash", np.uint8, (hashing.HASH_BYTES,)), ("id", f"V{ID_BYTES}")])
EDGE = np.dtype([("a", f"V{ID_BYTES}"), ("b", f"V{ID_BYTES}"), ("permille", np.uint16)])
MEMBER = np.dtype([("id", f"V{ID_BYTES}"), ("component", f"V{ID_BYTES}")])

# Measured by benchmarks/near_duplicates.py: on photos, copies lie above and different pictures below.
SIMILARITY = 0.78

_MAX_FREQUENCY = 8.5  # the lower ones survive cropping and scaling best
_MAX_COMPARED = 32  # of one bucket for one look-up: keeps a bucket with half of all images in it linear
_MAX_SIGNS_APART = 40  # of 143, checked before the exact similarity; similar pairs are at most about 31 apart
_CHUNK = 256
_PAIRS = 1 << 14
_MAX_EDGES = 1 << 20
_PERMILLE_BITS = 10


def _choose_bands() -> tuple[list[np.ndarray], np.ndarray]:
    """Chooses each band's coefficients, and says whether mirroring changes all (True) or none (False) of its signs.

    A band of the first kind has one coefficient more: its first sign only says which way round the others are read.
    """
    rows, columns = np.mgrid[: hashing.FREQUENCIES, : hashing.FREQUENCIES].reshape(2, -1)
    usable = (rows + columns > 0) & (np.hypot(rows, columns) <= _MAX_FREQUENCY)
    generator = np.random.Generator(np.random.PCG64(0))
    bands: list[np.ndarray] = []
    for odd in (False, True):
        pool = np.flatnonzero(usable & (columns % 2 == int(odd)))
        size = BUCKET_BITS + odd
        per_round = len(pool) // size  # bands that share no coefficient
        while len(bands) < (BANDS if odd else BANDS // 2):
            bands += list(generator.permutation(pool)[: per_round * size].reshape(per_round, size))
        bands = bands[: BANDS if odd else BANDS // 2]
    return bands, np.arange(BANDS) >= BANDS // 2


_COEFFICIENTS, _MIRRORED = _choose_bands()
_KEY_WEIGHTS = np.zeros((hashing.COEFFICIENTS, BANDS), np.float32)
for _band, _chosen in enumerate(_COEFFICIENTS):
    _KEY_WEIGHTS[_chosen, _band] = 2.0 ** np.arange(len(_chosen))  # no coefficient stands twice in a band


def _band_keys(positive: np.ndarray) -> np.ndarray:
    """Computes bucket numbers, int32 [n, BANDS], from signs, bool [n, COEFFICIENTS]."""
    keys = (positive.astype(np.float32) @ _KEY_WEIGHTS).astype(np.int32)  # exact: below 2^24
    mirrored = keys[:, _MIRRORED]
    keys[:, _MIRRORED] = np.where(mirrored & 1, mirrored ^ ((1 << BUCKET_BITS + 1) - 1), mirrored) >> 1
    return keys


def _sign_words(positive: np.ndarray) -> np.ndarray:
    """Packs signs, bool [n, COEFFICIENTS], into uint64 [n, 3], for counting how many differ."""
    padded = np.zeros((len(positive), 192), np.bool_)
    padded[:, : hashing.COEFFICIENTS] = positive
    return np.packbits(padded, axis=1).view(np.uint64)


_MIRROR_WORDS = _sign_words(hashing.MIRROR[None] < 0)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Names a part of every band's buckets: those whose numbers' highest `bits` bits are `number`, but for some."""

    bits: int = 0
    number: int = 0
    without: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= BUCKET_BITS or not 0 <= self.number < 1 << self.bits:
            raise ValueError(f"part {self.number} of 2^{self.bits} of a band's 2^{BUCKET_BITS} buckets does not exist")

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """Says which bucket numbers belong to the part."""
        inside = keys >> BUCKET_BITS - self.bits == self.number
        return inside & ~np.isin(keys, self.without) if self.without else inside


def buckets_of(sketches: np.ndarray) -> np.ndarray:
    """Finds the buckets in which sketches (SKETCH [n]) stand: int32 [n, BANDS]."""
    return _band_keys(hashing.levels(sketches["hash"]) > 0)


def buckets_concerned(sketches: np.ndarray) -> np.ndarray:
    """Finds the buckets that have to do with a sketch: where it stands, and where it looks for partners.

    Args:
      sketches: SKETCH [n].

    Returns:
      numbers of buckets, int32 [n, BANDS, 1 + len(WINDOWS)], with repetitions.
    """
    vectors = hashing.describe_windows(sketches["hash"]).reshape(-1, hashing.COEFFICIENTS)
    looked_at = _band_keys(vectors > 0).reshape(len(sketches), len(hashing.WINDOWS), BANDS)
    keys: np.ndarray = np.concatenate([buckets_of(sketches)[:, None], looked_at], axis=1).transpose(0, 2, 1)
    return keys


def shares_of(sketches: np.ndarray, band: int, bits: int) -> np.ndarray:
    """Deals sketches (SKETCH [n]) out to 2^bits shares, by another part of their ids in each band: int64 [n]."""
    ids = np.frombuffer(sketches["id"].tobytes(), np.uint8).reshape(-1, ID_BYTES)
    at = [(band + offset) % (ID_BYTES - 1) for offset in range(4)]
    return (ids[:, at].astype(np.int64) @ (1 << np.arange(0, 32, 8))) % (1 << bits)


class _Index:
    """Indexes all sketches by their buckets in some bands."""

    def __init__(self, sketches: np.ndarray, bands: Sequence[int], part: Part) -> None:
        count = len(sketches)
        self.bands = list(bands)
        self._part = part
        # Says where an image begins to look in a bucket that is too large to be looked through, wherever that is done.
        self._chances = np.frombuffer(sketches["id"].tobytes(), "<u4")[:: ID_BYTES // 4].astype(np.int64)
        self.hashes = sketches["hash"]
        self.words = np.empty((count, 3), np.uint64)
        keys = np.empty((len(self.bands), count), np.int32)
        for at in range(0, count, _CHUNK):
            positive = hashing.levels(self.hashes[at : at + _CHUNK]) > 0
            self.words[at : at + _CHUNK] = _sign_words(positive)
            keys[:, at : at + _CHUNK] = _band_keys(positive)[:, self.bands].T
        self.order = np.stack([np.argsort(key, kind="stable").astype(np.int32) for key in keys])
        # The place of each row in its bucket's order: it is compared with those that follow.
        self.rank = np.empty_like(self.order)
        for rank, order in zip(self.rank, self.order, strict=True):
            rank[order] = np.arange(count)
        self.starts = np.zeros((len(self.bands), (1 << BUCKET_BITS) + 1), np.int32)
        for starts, key in zip(self.starts, keys, strict=True):
            np.cumsum(np.bincount(key, minlength=1 << BUCKET_BITS), out=starts[1:])

    def partners(self, band: int, keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds partners for look-ups (bucket `keys[i]` for row `rows[i]`), at most `_MAX_COMPARED` for each.

        Returns (number of the look-up, partner row) of all of them.
        """
        first, end = self.starts[band][keys], self.starts[band][keys + 1]
        end = np.where(self._part.holds(keys), end, first)
        # Where a bucket is too large, its images are compared with those next to them; sorted by hash, equal ones meet.
        own = self.rank[band][rows]
        inside = (first <= own) & (own < end)
        spread = first + self._chances[rows] % np.maximum(1, end - first - _MAX_COMPARED)
        first = np.where(end - first <= _MAX_COMPARED, first, np.where(inside, own + 1, spread))
        sizes = np.minimum(end - first, _MAX_COMPARED)
        lookup = np.repeat(np.arange(len(keys)), sizes)
        offset = np.arange(len(lookup)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return lookup, self.order[band][first[lookup] + offset]


def _distinct(numbers: np.ndarray, *, ignored_bits: int = 0) -> np.ndarray:
    """Keeps the distinct ones of unsigned numbers, sorted; of those that differ in the lowest bits only, the smallest.

    np.unique hashes, which takes several times as long as NumPy's sorting of integers.
    """
    numbers.sort()
    first = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:] >> ignored_bits, numbers[:-1] >> ignored_bits, out=first[1:])
    return numbers[first]


def _pairs(index: _Index) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (row, partner, similarity) of all similar pairs found, some of them several times."""
    windows = len(hashing.WINDOWS)
    for at in range(0, len(index.hashes), _CHUNK):
        vectors = hashing.describe_windows(index.hashes[at : at + _CHUNK]).reshape(-1, hashing.COEFFICIENTS)
        positive = vectors > 0
        words, keys = _sign_words(positive), _band_keys(positive)
        rows = at + np.arange(len(vectors)) // windows
        found = [index.partners(number, keys[:, band], rows) for number, band in enumerate(index.bands)]
        pair = _distinct(np.concatenate([lookup * len(index.hashes) + partner for lookup, partner in found]))
        lookup, partner = np.divmod(pair, len(index.hashes))
        signs = mirrored = np.zeros(len(pair), np.uint8)
        for word, others, mirror in zip(words.T, index.words.T, _MIRROR_WORDS, strict=True):
            apart = word[lookup] ^ others[partner]
            signs = signs + np.bitwise_count(apart)
            mirrored = mirrored + np.bitwise_count(apart ^ mirror)
        near = (np.minimum(signs, mirrored) <= _MAX_SIGNS_APART) & (partner != rows[lookup])
        lookup, partner = lookup[near], partner[near]
        for start in range(0, len(lookup), _PAIRS):
            part, others = lookup[start : start + _PAIRS], partner[start : start + _PAIRS]
            mine, theirs = vectors[part], hashing.describe(index.hashes[others])
            similarity = np.maximum((mine * theirs).sum(axis=1), (mine * hashing.MIRROR * theirs).sum(axis=1))
            similar = similarity >= SIMILARITY
            yield rows[part[similar]], others[similar], similarity[similar]


def _root(parents: list[int], item: int) -> int:
    while parents[item] != item:
        parents[item] = item = parents[parents[item]]
    return item


def _smallest_connected(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """Finds the smallest number in the component of each of `count` numbers; edge i joins `a[i]` and `b[i]`.

    Every component hooks itself to a smaller one beside it, until none is left: Shiloach, Vishkin 1982.
    """
    smallest = np.arange(count)
    while True:
        one, other = smallest[a], smallest[b]
        apart = one != other
        if not apart.any():
            return smallest
        a, b, one, other = a[apart], b[apart], one[apart], other[apart]
        np.minimum.at(smallest, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(flat := smallest[smallest], smallest):
            smallest = flat


def components(edges: np.ndarray, *, at_least: float = 0.0) -> np.ndarray:
    """Finds connected components.

    Args:
      edges: EDGE [n].
      at_least: similarity below which an edge does not count.

    Returns:
      MEMBER [m]: the ids that edges touch, ascending, each with the smallest id of its component.
    """
    edges = edges[edges["permille"] >= at_least * 1000]
    found, numbers = np.unique(np.concatenate([edges["a"], edges["b"]]).view(f"S{ID_BYTES}"), return_inverse=True)
    ids = found.view(f"V{ID_BYTES}")
    members = np.empty(len(ids), MEMBER)
    a, b = numbers.reshape(2, -1)
    members["id"], members["component"] = ids, ids[_smallest_connected(a, b, len(ids))]
    return members


def _forest(a: np.ndarray, b: np.ndarray, permille: np.ndarray) -> np.ndarray:
    """Finds which edges between the numbered ends `a` and `b` a maximum spanning forest keeps: indices, best first."""
    order = np.argsort(-permille.astype(np.int32), kind="stable")
    parents = list(range(1 + max(a.max(initial=-1), b.max(initial=-1))))
    kept = []
    for number, start, other_start in zip(order.tolist(), a[order].tolist(), b[order].tolist(), strict=True):
        one, other = _root(parents, start), _root(parents, other_start)
        if one != other:
            parents[one] = other
            kept.append(number)
    return np.array(kept, np.intp)


def _unpacked(pairs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unpacks pairs of `count` rows that `similar` packed: lower rows, higher rows, permilles of similarity."""
    lower, higher = np.divmod((pairs >> _PERMILLE_BITS).astype(np.int64), count)
    return lower, higher, 1000 - (pairs & ((1 << _PERMILLE_BITS) - 1)).astype(np.int32)


def similar(
    sketches: np.ndarray,
    bands: Sequence[int] = range(BANDS),
    *,
    part: Part | None = None,
) -> np.ndarray:
    """Finds the similar pairs among sketches.

    Args:
      sketches: SKETCH [n], in any order; ids distinct. Sorted in place: a copy would double the search's memory.
      bands: the bands to look at.
      part: the buckets to look at; all that `buckets_concerned` sends there must be among the sketches.

    Returns:
      EDGE [m]: a maximum spanning forest of the pairs found; the same for any order of the sketches.
    """
    if len(sketches) < 2:
        return np.empty(0, EDGE)
    # By hash, then id: NumPy cannot sort by fields of bytes, but by one of all bytes.
    sketches.view(f"S{SKETCH.itemsize}").sort()
    # One number a pair: lower row, higher row, 1000 - permille of similarity; so the smallest is the most similar.
    count = len(sketches)
    found = [np.empty(0, np.uint64)]
    for rows, partners, similarity in _pairs(_Index(sketches, bands, part or Part())):
        pairs = np.minimum(rows, partners) * count + np.maximum(rows, partners)
        unlike = np.maximum(0, 1000 - np.rint(similarity * 1000)).astype(np.uint64)
        found.append(pairs.astype(np.uint64) << _PERMILLE_BITS | unlike)
        if sum(map(len, found)) > _MAX_EDGES:
            found = [_distinct(np.concatenate(found), ignored_bits=_PERMILLE_BITS)]
            if len(found[0]) > _MAX_EDGES // 2:
                found = [found[0][_forest(*_unpacked(found[0], count))]]
    pairs = _distinct(np.concatenate(found), ignored_bits=_PERMILLE_BITS)
    lower, higher, permille = _unpacked(pairs, count)
    kept = _forest(lower, higher, permille)
    edges = np.empty(len(kept), EDGE)
    edges["a"], edges["b"], edges["permille"] = (
        sketches["id"][lower[kept]],
        sketches["id"][higher[kept]],
        permille[kept],
    )
    return edges
