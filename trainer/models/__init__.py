"""Builds classifiers: a backbone with its ImageNet weights, and a head on it.

`classifier` puts both together; `backbones` knows every backbone, `efficientnet` and `resnet` build some; `pretrained`
loads weights, PyTorch's by `torch_weights`. `twin` makes a cheaper model of the same variables: `folding` takes batch
normalisation into convolutions, `resizing` is two matrix products. `keras_private` reaches into Keras for all of us.
"""

from trainer.models.backbones import BACKBONES, BackboneInfo, backbone_info
from trainer.models.classifier import Classifier, HeadConfig, build_classifier

__all__ = ["BACKBONES", "BackboneInfo", "Classifier", "HeadConfig", "backbone_info", "build_classifier"]
