"""Tests what trainer.preflight reads from programs and models, against TensorFlow's own arithmetic."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.augment.config import AugmentConfig
from pipeline.command import CommandError, UsageError
from tests.trainer.commands import ROOT
from trainer.preflight import feeding, flops, hlo
from trainer.preflight.cache import installed
from trainer.preflight.facts import Counts
from trainer.preflight.lowering import Lowering, unsupported_operations
from trainer.recipes.load import load_recipe
from trainer.recipes.overrides import override
from trainer.recipes.recipe import DataFacts


def multiplications(function, *shapes):
    """Counts the multiplications in a bilinear `function`: of ones, the sum of its result."""
    return float(tf.reduce_sum(function(*(tf.ones(shape, tf.float64) for shape in shapes))))


def program_text(function, *shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes]
    return tf.function(function, jit_compile=True).experimental_get_compiler_ir(*specs)(
        stage="hlo", platform_name="CPU"
    )


PRODUCTS = [
    (lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), (2, 9, 7, 3), (3, 3, 3, 5)),
    (lambda x, k: tf.nn.conv2d(x, k, 2, "SAME"), (2, 9, 8, 3), (5, 3, 3, 4)),
    (lambda x, k: tf.nn.conv2d(x, k, 1, "VALID"), (2, 9, 7, 3), (3, 3, 3, 5)),
    (lambda x, k: tf.nn.conv2d(x, k, 1, "SAME", dilations=2), (1, 11, 11, 2), (3, 3, 2, 2)),
    (lambda x, k: tf.nn.depthwise_conv2d(x, k, (1, 1, 1, 1), "SAME"), (2, 8, 8, 6), (3, 3, 6, 1)),
    (lambda x, k: x @ k, (4, 7), (7, 5)),
    (lambda g, k: tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[2, 9, 8, 3], filter=k, out_backprop=g, strides=[1, 2, 2, 1], padding="SAME"),
     (2, 5, 4, 6), (3, 3, 3, 6)),
    (lambda x, g: tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=[3, 3, 3, 6], out_backprop=g, strides=[1, 2, 2, 1], padding="SAME"),
     (2, 9, 8, 3), (2, 5, 4, 6)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "left", "right"), PRODUCTS)
def test_products_of_a_program_are_counted_without_what_falls_on_padding(function, left, right, xla):
    assert hlo.product_flops(program_text(function, left, right)) == 2 * multiplications(function, left, right)


@pytest.mark.parametrize(
    ("text", "plain", "padded", "space"),
    [
        ("bf16[256,7,7,1152]{3,0,2,1:T(8,128)(2,1)S(1)}", 2 * 256 * 49 * 1152, 2 * 256 * 49 * 1152, 1),
        ("bf16[25,7,7,96]{3,0,2,1:T(8,128)(2,1)}", 2 * 25 * 49 * 96, 2 * 32 * 49 * 128, 0),
        ("f32[8,32,32,3]{2,3,1,0:T(4,128)}", 4 * 8 * 32 * 32 * 3, 4 * 8 * 32 * 4 * 128, 0),
        ("f32[10]{0:T(128)}", 40, 512, 0),
        ("f32[]{:T(128)}", 4, 4, 0),
        ("s32[7]{0}", 28, 28, 0),
        ("f32[4,4]{1,0:T(8,128)S(5)}", 64, 4 * 8 * 128, 5),
    ],
)
def test_shapes_are_filled_up_to_their_tiles(text, plain, padded, space):
    (buffer,) = hlo.parse_shape(text)
    assert (buffer.bytes, buffer.padded_bytes, buffer.space) == (plain, padded, space)


PROGRAM = """HloModule m

%fused (p.1: bf16[8,100]) -> bf16[8,100] {
  %p.1 = bf16[8,100]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %big = bf16[8,100]{1,0:T(8,128)(2,1)} negate(%p.1)
}

ENTRY %main (a: bf16[8,100]) -> (bf16[8,100], f32[8,128]) {
  %a = bf16[8,100]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="XLA_Args"}
  %copy-start.1 = (bf16[8,100]{1,0:T(8,128)(2,1)S(1)}, bf16[8,100]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done.1 = bf16[8,100]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start.1)
  %f = bf16[8,100]{1,0:T(8,128)(2,1)} fusion(%copy-done.1), kind=kLoop, calls=%fused, metadata={op_name="stem/relu"}
  %g = f32[8,128]{1,0:T(8,128)S(5)} fusion(%f, %a), kind=kLoop, calls=%fused, metadata={op_name="offload"}
  ROOT %t = (bf16[8,100]{1,0:T(8,128)(2,1)}, f32[8,128]{1,0:T(8,128)S(5)}) tuple(%f, %g)
}
"""
TILE = 2 * 8 * 128  # bytes of each of its bfloat16 tensors


def test_traffic_is_what_goes_to_and_from_hbm():
    # copy-start reads a; f reads vector memory and writes HBM; g reads f and a and writes to the host.
    assert hlo.memory_traffic(PROGRAM) == TILE + TILE + 2 * TILE


PICKED = """HloModule m

%pick (p0: u8[60000,3072], p1: s32[4]) -> u8[4,3072] {
  %p0 = u8[60000,3072]{1,0:T(32,128)(4,1)} parameter(0)
  %p1 = s32[4]{0:T(128)} parameter(1)
  ROOT %g = u8[4,3072]{1,0:T(4,128)(4,1)} gather(%p0, %p1), offset_dims={1}
}

%pick_and_add (q1: s32[4], q0: u8[60000,3072]) -> u8[4,3072] {
  %q1 = s32[4]{0:T(128)} parameter(1)
  %q0 = u8[60000,3072]{1,0:T(32,128)(4,1)} parameter(0)
  %h = u8[4,3072]{1,0:T(4,128)(4,1)} gather(%q0, %q1), offset_dims={1}
  ROOT %i = u8[4,3072]{1,0:T(4,128)(4,1)} fusion(%q0, %h), calls=%other
}

ENTRY %main (a: u8[60000,3072], b: s32[4]) -> u8[4,3072] {
  %a = u8[60000,3072]{1,0:T(32,128)(4,1)} parameter(0)
  %b = s32[4]{0:T(128)S(1)} parameter(1)
  ROOT %f = u8[4,3072]{1,0:T(4,128)(4,1)S(1)} fusion(%a, %b), kind=kCustom, calls=%pick
}
"""


def test_of_what_is_picked_from_only_what_is_picked_is_read():
    assert hlo.memory_traffic(PICKED) == 4 * 3072
    assert hlo.memory_traffic(PICKED.replace("calls=%pick\n", "calls=%pick_and_add\n")) == 60000 * 3072
    at_top = PICKED.replace("fusion(%a, %b), kind=kCustom, calls=%pick\n", "gather(%a, %b), offset_dims={1}\n")
    assert hlo.memory_traffic(at_top) == 4 * 3072


EXCHANGE = """HloModule m

ENTRY %main (a: f32[8,128], b: bf16[64]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = bf16[64]{0:T(128)} parameter(1)
  %all-reduce.1 = (f32[8,128]{1,0:T(8,128)}, /*index=1*/bf16[64]{0:T(128)}) all-reduce(%a, %b), replica_groups={}
  %g = f32[8,128]{1,0:T(8,128)} get-tuple-element(%all-reduce.1), index=0
  %all-reduce-start.1 = f32[8,128]{1,0:T(8,128)} all-reduce-start(%g), replica_groups={{0,1}}, to_apply=%add
  %all-reduce-done.1 = f32[8,128]{1,0:T(8,128)} all-reduce-done(%all-reduce-start.1)
  %s = (bf16[64]{0:T(128)}, bf16[128]{0:T(128)}) all-gather-start(%b), dimensions={0}
  %all-gather-done.1 = bf16[128]{0:T(128)} all-gather-done(%s)
  ROOT %all-to-all.1 = f32[8,128]{1,0:T(8,128)} all-to-all(f32[8,128]{1,0:T(8,128)} %all-reduce-done.1), dimensions={0}
}
"""


def test_what_the_chips_exchange_is_read_out_of_the_program():
    found = {(one.kind, one.waits): (one.count, one.bytes) for one in hlo.collectives(EXCHANGE)}
    assert found == {
        ("all-reduce", True): (1, 4 * 8 * 128 + 2 * 64),
        ("all-reduce", False): (1, 4 * 8 * 128),
        ("all-gather", False): (1, 2 * 128),
        ("all-to-all", True): (1, 4 * 8 * 128),
    }
    assert hlo.memory_traffic(EXCHANGE) == 0  # it counts by the links


def test_padding_is_told_by_dimension_and_layer():
    padding = hlo.padding(hlo.entry(PROGRAM), batch=8)
    assert (padding.bytes, padding.padded_bytes) == (2 * 2 * 8 * 100, 2 * TILE)
    assert padding.share == pytest.approx(1 - 100 / 128)
    assert {where for _, _, where in padding.worst} == {"argument", "stem/relu"}
    assert all(what == "bf16[8,100]: channels 100 → 128" for _, what, _ in padding.worst)


def test_what_lies_with_the_host_is_named():
    assert hlo.host_operations(PROGRAM) == ["fusion g (offload)"]


def tiny_model():
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="first")(images)
    y = keras.layers.DepthwiseConv2D(3, strides=2, padding="same", name="second")(x)
    z = keras.layers.Dense(5, name="third")(keras.layers.GlobalAveragePooling2D()(y))
    return keras.Model(images, z)


# Along an axis of 8 pixels: a kernel of 3 has 22 taps on the image, with stride 2 it has 4 * 3 - 1.
FIRST, SECOND, THIRD = 2 * 22 * 22 * 3 * 4, 2 * 11 * 11 * 4, 2 * 4 * 5


def test_forward_flops_by_hand():
    model = tiny_model()
    assert [flops.forward_flops(model.get_layer(name)) for name in ("first", "second", "third")] == [
        FIRST,
        SECOND,
        THIRD,
    ]


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        ((), FIRST + SECOND + THIRD),
        (("third",), FIRST + SECOND + 2 * THIRD),  # no gradient flows into what is frozen before it
        (("first",), 2 * FIRST + 2 * SECOND + 2 * THIRD),  # the images need no gradient, the frozen layers pass it on
        (("first", "second", "third"), 2 * FIRST + 3 * SECOND + 3 * THIRD),
    ],
)
def test_what_is_frozen_costs_less(trained, expected):
    model = tiny_model()
    paths = {v.path for name in trained for v in model.get_layer(name).trainable_variables}
    assert flops.training_flops(model, paths) == (expected, bool(trained))


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (("third",), FIRST + SECOND + 2 * 2 * THIRD),  # the frozen layers give both passes the same
        (("second", "third"), FIRST + 2 * (2 * SECOND + 3 * THIRD)),
        (("first", "second", "third"), 2 * (2 * FIRST + 3 * SECOND + 3 * THIRD)),
    ],
)
def test_a_second_pass_costs_again_what_its_other_weights_change(trained, expected):
    model = tiny_model()
    paths = {v.path for name in trained for v in model.get_layer(name).trainable_variables}
    assert flops.training_flops(model, paths, passes=2)[0] == expected


def test_channels_that_fill_the_matrix_unit_are_full():
    inputs = keras.Input((128,))
    full = keras.Model(inputs, keras.layers.Dense(256)(inputs))
    half = keras.Model(inputs, keras.layers.Dense(64)(inputs))
    assert flops.channel_fill([full], 128) == 1
    assert flops.channel_fill([half], 128) == 0.5
    assert flops.channel_fill([full], 256) == 0.5


LOSS = 2 * 4 * 3  # class weights, one product for each image and class


@pytest.fixture(scope="module")
def recipe():
    facts = DataFacts(num_train=100, num_classes=3, max_side=16)
    return override(load_recipe("quick", facts, backbone="cifar10_cnn"), ("image_size=16", "head.hidden=16"))


@pytest.fixture(scope="module", autouse=True)
def policy_of_the_other_tests():
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)  # a Lowering sets it for the process


@pytest.fixture(scope="module")
def lowering(recipe, xla):
    return Lowering(recipe, num_classes=3)


@pytest.fixture(scope="module")
def whole(lowering, recipe):
    return lowering.train_step(recipe.phases[1], batch=4, steps_per_epoch=10)


def test_our_step_is_lowered_in_bfloat16_with_the_products_that_its_layers_ask_for(whole):
    assert "bf16[4,16,16,64]" in whole.text
    assert whole.input_bytes == 4 + 4 * (4 * 16 * 16 * 3 + 4 + 4)  # the step's number; images, labels, weights
    # TensorFlow also writes down the gradient of the images, which the compiler drops because nothing uses it.
    images = 2 * 4 * (3 * 16 - 2) ** 2 * 3 * 64
    assert hlo.product_flops(whole.text) == whole.flops + LOSS + images


def test_another_batch_is_another_program(lowering, recipe, whole):
    other = lowering.train_step(recipe.phases[1], batch=2, steps_per_epoch=10)
    assert other.digest != whole.digest
    assert 2 * other.flops == whole.flops


def test_the_same_program_has_the_same_digest_though_its_names_are_counted_on(recipe, whole):
    again = Lowering(recipe, num_classes=3).train_step(recipe.phases[1], batch=4, steps_per_epoch=10)
    assert again.text != whole.text
    assert again.digest == whole.digest


def test_a_phase_on_cached_features_costs_the_head_alone(lowering, recipe):
    cached = lowering.train_step(recipe.phases[0], batch=4, steps_per_epoch=10)
    units = 64  # of the backbone's features, which need no gradient
    assert cached.flops == 4 * 2 * (2 * units * 16 + 3 * 16 * 3)
    assert hlo.product_flops(cached.text) == cached.flops + LOSS


def test_sharpness_aware_minimisation_takes_the_products_of_two_passes(recipe, whole, xla):
    sharp = dataclasses.replace(recipe, sam_rho=0.05)
    program = Lowering(sharp, num_classes=3).train_step(recipe.phases[1], batch=4, steps_per_epoch=10)
    assert program.flops == 2 * whole.flops
    assert hlo.product_flops(program.text) == 2 * hlo.product_flops(whole.text)


def test_the_chips_sum_the_gradients_of_what_trains(lowering, recipe, whole):
    head = (64 + 1) * 16 + (16 + 1) * 3
    cached = lowering.train_step(recipe.phases[0], batch=4, steps_per_epoch=10)
    (summed,) = hlo.collectives(cached.text)
    assert (summed.kind, summed.count, summed.bytes) == ("all-reduce", 4, 4 * head)
    (summed,) = hlo.collectives(whole.text)
    assert summed.bytes > 4 * head


def test_the_program_does_not_grow_with_the_slice(recipe, whole):
    phase = dataclasses.replace(recipe.phases[1], l2=0.0)  # whose share depends on the number of chips
    many = Lowering(recipe, num_classes=3, chips=4096).train_step(phase, batch=4, steps_per_epoch=10)
    assert len(many.text) == pytest.approx(len(whole.text), rel=0.01)


@pytest.mark.slow
def test_a_backbone_and_a_recipe_of_ones_own_are_lowered_like_ours(xla):
    own = load_recipe(str(ROOT / "examples" / "own_code.py"), DataFacts(num_train=100, num_classes=3, max_side=64))
    lowering = Lowering(own, num_classes=3)
    program = lowering.train_step(own.phases[0], batch=8, steps_per_epoch=10)
    assert "8,64,64,3" in program.text
    assert program.flops > lowering.forward(batch=8).flops > 0


def test_evaluation_exchanges_nothing(lowering):
    assert hlo.collectives(lowering.forward(batch=4).text) == []


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        (AugmentConfig(), ["f32[4,16,16,3]", "s32[4]", "f32[4]"]),
        (AugmentConfig(mixup=0.2), ["f32[4,16,16,3]", "f32[4,3]", "f32[4]"]),
        (AugmentConfig(on_accelerator=True), ["u8[4,16,16,3]", "s32[4]", "f32[4]"]),
    ],
)
def test_the_step_takes_what_the_input_pipeline_gives(augment, expected, recipe, lowering):
    changed = dataclasses.replace(recipe, augment=augment)
    spec = feeding.batch_spec(changed, recipe.phases[1], batch=4, classes=3)
    short = {tf.float32: "f32", tf.int32: "s32", tf.uint8: "u8"}
    shapes = [
        f"{short[s.dtype]}[{','.join(map(str, s.shape))}]" for s in (spec[k] for k in ("image", "label", "weight"))
    ]
    assert shapes == expected


def test_images_that_lie_on_the_chips_are_a_part_of_the_program(recipe, whole, lowering):
    """30 images of 20 × 24 pixels, of which the host says only which, and which part of them."""
    augment = AugmentConfig(flip=True, shift=0.1, on_accelerator=True)
    counts = Counts(train=20, validation=10, classes=3, side=24, origin="")
    manifest = dataclasses.replace(counts.manifest(), max_height=20)
    on_chip = Lowering(dataclasses.replace(recipe, augment=augment), num_classes=3, resident=manifest)
    programs = [on_chip.train_step(recipe.phases[1], batch=4, steps_per_epoch=10), on_chip.forward(batch=4)]
    for program, plain in zip(programs, (whole, lowering.forward(batch=4)), strict=True):
        assert "u8[30,1440]" in program.text
        assert program.input_bytes < 200 < plain.input_bytes
        # Two products select each pixel's neighbours, for each of the 4 images.
        selection = 2 * 4 * 3 * (2 * 16 * 20 * 24 + 2 * 16 * 24 * 2 * 16)
        assert hlo.product_flops(program.text) - hlo.product_flops(plain.text) == pytest.approx(selection, rel=0.01)


def test_a_host_mixes_pairs_of_all_its_chips(recipe):
    mixed, phase = dataclasses.replace(recipe, augment=AugmentConfig(mixup=0.2)), recipe.phases[1]
    spec = feeding.batch_spec(mixed, phase, batch=5, classes=3, chips_of_host=8)
    assert spec["image"].shape == (5, 16, 16, 3)
    with pytest.raises(UsageError, match="a host's batch must be even, got 5"):
        feeding.batch_spec(mixed, phase, batch=5, classes=3)


@pytest.mark.slow
def test_colours_changed_on_the_chip_are_part_of_the_step(recipe, xla):
    augment = AugmentConfig(brightness=0.1, cutout_count=1, cutout_size=0.4, on_accelerator=True)
    changed = dataclasses.replace(recipe, augment=augment)
    program = Lowering(changed, num_classes=3).train_step(changed.phases[1], batch=4, steps_per_epoch=10)
    assert "u8[4,16,16,3]" in program.text


def test_an_operation_that_xla_lacks_is_named(lowering):
    def on_the_host(x):
        return tf.numpy_function(np.sin, [x], tf.float32)

    with pytest.raises(CommandError, match="cannot be compiled for a TPU: PyFunc"):
        lowering._program(on_the_host, {"x": tf.TensorSpec([2])}, 2, 0)


@pytest.mark.skipif("tensorflow-tpu" not in installed(), reason="only tensorflow-tpu has no XLA for CPUs")
def test_a_tensorflow_without_xla_for_cpus_is_named(recipe):
    with pytest.raises(UsageError, match="tensorflow-tpu has none"):
        Lowering(recipe, num_classes=3).train_step(recipe.phases[1], batch=4, steps_per_epoch=10)


def test_other_refusals_are_quoted():
    assert unsupported_operations("something else\nmore") == "something else"
