import numpy as np
import tensorflow as tf

from pipeline.augment import random_bits

# The first outputs of SplitMix64 seeded with 1234567 (the reference C code, https://prng.di.unimi.it/splitmix64.c).
REFERENCE = [6457827717110365317, 3203168211198807973, 9817491932198370423]
GOLDEN = 0x9E3779B97F4A7C15


def test_the_mixer_is_splitmix64_in_all_three_forms():
    states = [(1234567 + i * GOLDEN) % 2**64 for i in range(3)]
    assert [random_bits.mix(s) for s in states] == REFERENCE
    assert random_bits.mix_numpy(np.array(states, np.uint64)).tolist() == REFERENCE
    assert random_bits.mix_tensor(tf.constant(states, tf.uint64)).numpy().tolist() == REFERENCE


def test_keys_differ_by_seed_epoch_and_purpose():
    keys = {
        random_bits.stream_key(seed=seed, epoch=epoch, purpose=purpose)
        for seed in range(20)
        for epoch in range(20)
        for purpose in ("augment", "mix", "shards")
    }
    assert len(keys) == 20 * 20 * 3


def _uniforms(count, draws, key=5):
    identities = tf.constant(random_bits.mix_numpy(np.arange(count, dtype=np.uint64)))
    return random_bits.uniforms(identities, key=tf.constant(key, tf.uint64), draws=draws).numpy()


def test_graphs_and_datasets_compute_what_python_does():
    """In a graph, unlike in eager mode, tf.constant rounds a list of large uint64 numbers to 53 bits."""
    identities = tf.constant([3, 2**63 + 5, 2**64 - 1], tf.uint64)
    key = tf.constant(2**64 - 7, tf.uint64)
    states = [random_bits.mix(i ^ (2**64 - 7)) for i in (3, 2**63 + 5, 2**64 - 1)]
    expected = [[(random_bits.mix(s + k * GOLDEN) >> 40) * 2.0**-24 for k in range(9)] for s in states]

    def draw(identities):
        return random_bits.uniforms(identities, key=key, draws=9)

    mapped = next(iter(tf.data.Dataset.from_tensors(identities).map(draw)))
    for result in (draw(identities), tf.function(draw)(identities), mapped):
        np.testing.assert_array_equal(result, expected)


def test_more_draws_or_more_examples_change_nothing():
    whole = _uniforms(100, 20)
    np.testing.assert_array_equal(_uniforms(100, 3), whole[:, :3])
    np.testing.assert_array_equal(_uniforms(7, 20), whole[:7])


def test_uniform_and_uncorrelated():
    u = _uniforms(10_000, 20)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    for column in u.T:
        counts = np.histogram(column, bins=50, range=(0, 1))[0]
        assert ((counts - 200.0) ** 2 / 200.0).sum() < 110  # chi2.ppf(1 - 1e-6, 49) = 109.7
    correlation = np.corrcoef(u.T) - np.eye(20)
    assert np.abs(correlation).max() < 0.05  # five standard deviations
    assert np.abs(np.corrcoef(u[:, 0], _uniforms(10_000, 1, key=6)[:, 0])[0, 1]) < 0.05
