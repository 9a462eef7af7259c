"""Builds classifiers: a backbone with its ImageNet weights, and a head on it.

What recipes need is free of TensorFlow, and handed on here: `backbones` lists every backbone, `head` says what a head
is; so is `weights`, which finds files. `classifier` puts both together; `feature_maps` builds a backbone's layers, some
by `efficientnet` and `resnet`, a user's by `own_backbone`; `pretrained` loads weights, PyTorch's by `torch_weights`.
`twin` makes a cheaper model of the same variables: `folding` takes batch normalisation into convolutions, `resizing` is
two matrix products. `keras_private` reaches into Keras for all of us.
"""

from trainer.models.backbones import BACKBONES, BackboneInfo, backbone_info
from trainer.models.head import HeadConfig

__all__ = ["BACKBONES", "BackboneInfo", "HeadConfig", "backbone_info"]
