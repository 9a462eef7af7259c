import pathlib

import numpy as np
import pytest
import tensorflow as tf

from pipeline.command import UsageError
from trainer.models import HeadConfig
from trainer.models.classifier import build_classifier
from trainer.models.inherit import inherit
from trainer.serving.export import export_classifier

LABELS = ["ant", "bee", "cat"]


def _classifier(labels, *, seed, hidden=8, backbone="cifar10_cnn", weights="none"):
    return build_classifier(
        backbone=backbone,
        weights=weights,
        num_classes=len(labels),
        height=32,
        width=32,
        head=HeadConfig(hidden=hidden),
        seed=seed,
    )


def _logits(classifier, images):
    return classifier.head(classifier.backbone(images, training=False), training=False).numpy()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    classifier = _classifier(LABELS, seed=1)
    size = {"height": 32, "width": 32}
    export_classifier(classifier, labels=LABELS, preprocess="unit", directory=folder / "export", **size)
    return str(folder), classifier


@pytest.fixture(scope="module")
def images():
    return tf.constant(np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype(np.float32))


@pytest.mark.parametrize("place", ["", "export"])
def test_labels_are_known_by_their_names(run, images, place):
    folder, earlier = run
    labels = ["cat", "dog", "ant"]
    later = _classifier(labels, seed=2)
    fresh = later.head.get_layer("logits").get_weights()
    line = inherit(later, labels, str(pathlib.Path(folder, place)))
    assert line.endswith("it knows 2 of 3 labels, 1 begin anew, dog among them")
    np.testing.assert_allclose(_logits(later, images)[:, [0, 2]], _logits(earlier, images)[:, [2, 0]], atol=1e-5)
    kernel, bias = later.head.get_layer("logits").get_weights()
    np.testing.assert_array_equal(kernel[:, 1], fresh[0][:, 1])
    np.testing.assert_array_equal(bias[1], fresh[1][1])


def test_the_same_labels_give_the_same_model(run, images):
    folder, earlier = run
    later = _classifier(LABELS, seed=2)
    assert inherit(later, LABELS, folder).endswith("it knows 3 of 3 labels")
    np.testing.assert_allclose(_logits(later, images), _logits(earlier, images), atol=1e-5)


def test_a_share_of_the_weights_is_taken_and_the_rest_is_new(run):
    folder, earlier = run
    later = _classifier(LABELS, seed=2)
    first = [*later.backbone.get_weights(), *later.head.get_weights()]
    assert inherit(later, LABELS, folder, share=0.7).endswith("3 of 3 labels; 70% of its weights, and 30% of new ones")
    old = [*earlier.backbone.get_weights(), *earlier.head.get_weights()]
    found = [*later.backbone.get_weights(), *later.head.get_weights()]
    assert len(found) == len(old) > 4
    for one, was, new in zip(found, old, first, strict=True):
        np.testing.assert_allclose(one, 0.7 * was + 0.3 * new, atol=1e-6)


def test_a_head_of_another_kind_begins_anew(run):
    folder, earlier = run
    later = _classifier(LABELS, seed=2, hidden=0)
    fresh = later.head.get_weights()
    assert "begins anew" in inherit(later, LABELS, folder)
    for one, other in zip(later.backbone.get_weights(), earlier.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(later.head.get_weights(), fresh, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_no_export_or_of_another_backbone_is_refused(run, tmp_path):
    folder, _ = run
    with pytest.raises(UsageError, match="no model.keras and labels.txt there"):
        inherit(_classifier(LABELS, seed=2), LABELS, str(tmp_path))
    with pytest.raises(UsageError, match="its backbone is another one"):
        inherit(_classifier(LABELS, seed=2, backbone="resnet34"), LABELS, folder)
    (tmp_path / "labels.txt").write_text("ant\n")
    (tmp_path / "model.keras").write_bytes(b"PK")
    with pytest.raises(UsageError, match="model.keras: no model.keras that trainer.export wrote"):
        inherit(_classifier(LABELS, seed=2), LABELS, str(tmp_path))


def test_weights_may_be_the_model_of_an_export(run):
    folder, earlier = run
    later = _classifier(LABELS, seed=2, weights=f"{folder}/export/model.keras")
    for one, other in zip(later.backbone.get_weights(), earlier.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UsageError, match="does not fit resnet34: its backbone is another one"):
        _classifier(LABELS, seed=2, backbone="resnet34", weights=f"{folder}/export/model.keras")
