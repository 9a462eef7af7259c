"""Fails first when Keras changes what is reached into: each name is there and means what we take it to mean."""

import keras
import tensorflow as tf

from trainer.models import keras_private


def _model():
    image = keras.Input((8, 8, 3), name="image")
    conv = keras.layers.Conv2D(4, 3, name="conv")(image)
    norm = keras.layers.BatchNormalization(name="norm")(conv)
    both = keras.layers.Add(name="both")([norm, conv])
    inner = keras.Sequential([keras.layers.Dropout(0.5, name="drop")], name="inner")
    return keras.Model(image, inner(both))


def test_layers_inside_of_layers_are_listed():
    names = {layer.name for layer in keras_private.all_layers(_model())}
    assert {"conv", "norm", "both", "inner", "drop"} <= names


def test_dropout_draws_the_seed_that_it_is_given():
    layer = keras.layers.Dropout(0.5, seed=1)
    layer.build((None, 1000))
    seeds = []

    def next_seed(ordered=True):
        seeds.append(ordered)
        return tf.constant([7, 9])

    keras_private.draw_seeds_by(layer, next_seed)
    ones = tf.ones((1, 1000))
    first, second = layer(ones, training=True), layer(ones, training=True)
    assert len(seeds) == 2
    assert (first.numpy() == second.numpy()).all()
    expected = tf.random.stateless_uniform((1, 1000), seed=[7, 9]).numpy() >= 0.5
    assert ((first.numpy() != 0) == expected).all()


def test_a_dropout_counter_takes_our_path():
    layer = keras.layers.Dropout(0.5, seed=1)
    keras_private.name_seed_state(layer, "head/dropout/seed_generator_state")
    assert [variable.path for variable in layer.variables] == ["head/dropout/seed_generator_state"]


def test_layers_are_numbered_from_zero_and_then_go_on():
    def number() -> int:
        return int(keras.layers.ReLU().name.removeprefix("re_lu").strip("_") or 0)

    before = number()
    with keras_private.numbered_from_zero():
        assert [number(), number()] == [0, 1]
    assert number() == before + 1


def test_the_graph_of_a_functional_model_can_be_walked():
    model = _model()
    conv, norm, both = (model.get_layer(name) for name in ("conv", "norm", "both"))
    assert keras_private.producer(norm) is conv
    assert keras_private.consumers(conv) == 2
    assert keras_private.consumers(norm) == 1
    levels = keras_private.operations_by_depth(model)
    order = [operation.name for level in levels for operation in level]
    assert order == ["image", "conv", "norm", "both", "inner"]
    inputs, outputs = keras_private.first_call(both)
    assert [tuple(tensor.shape) for tensor in inputs] == [(None, 6, 6, 4)] * 2
    assert [tuple(tensor.shape) for tensor in outputs] == [(None, 6, 6, 4)]
