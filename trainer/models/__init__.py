"""Backbones with their ImageNet weights, and the classifiers built on them."""

from trainer.models.backbones import BACKBONES, BackboneInfo, backbone_info
from trainer.models.classifier import Classifier, HeadConfig, build_classifier

__all__ = ["BACKBONES", "BackboneInfo", "Classifier", "HeadConfig", "backbone_info", "build_classifier"]
