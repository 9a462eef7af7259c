"""Holds speeds that others measured on TPUs: they say how much of its roofline a real step reaches. Free of TensorFlow.

Each is a whole training run on ImageNet, input included; its roofline is that of our own program of the same network.
"""

from __future__ import annotations

import dataclasses

_IMAGENET = 1_281_167


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchor:
    """Describes a measured training run.

    Attributes:
      what: network and TPU.
      rate: images/s a chip.
      peak_flops: of the chip, bfloat16 operations a second.
      memory_bandwidth: of the chip, bytes a second.
      flops: of one image in our program, as libtpu counts.
      traffic: bytes between chip and HBM for one image in our program.
      source: of the measurement.
    """

    what: str
    rate: float
    peak_flops: float
    memory_bandwidth: float
    flops: float
    traffic: float
    source: str

    @property
    def fraction(self) -> float:
        """Returns the share of its roofline that was reached, 0 to 1."""
        return self.rate * max(self.flops / self.peak_flops, self.traffic / self.memory_bandwidth)


# The chips: 46 TFLOP/s and 700 GB/s (v2), 123 TFLOP/s and 900 GB/s (v3), table 1 of doi:10.1145/3360307.
_V2 = {"peak_flops": 46e12, "memory_bandwidth": 700e9}
_V3 = {"peak_flops": 123e12, "memory_bandwidth": 900e9}
# Our programs, as libtpu compiles them for v5e. ResNet-50: --recipe=oxford_pets_resnet --topology=v5e:1x1
# --set=batch_size=64 --set=phases.0.batch_norm=train. B0: 25 images, with Keras' batch normalisation in inference mode
# (benchmarks/RESULTS.md), as training mode was not compiled: it moves more bytes, so the share is larger than is said.
_B0 = {"flops": 2.44e9, "traffic": 243e6}
_RESNET_50 = {"flops": 22.45e9, "traffic": 248e6}

ANCHORS = (
    Anchor(
        what="EfficientNet-B0 at 224 pixels, 350 epochs in 23 hours on a v2-8",
        rate=350 * _IMAGENET / (23 * 3600) / 4,
        source="https://arxiv.org/abs/2011.00071",
        **_B0,
        **_V2,
    ),
    Anchor(
        what="ResNet-50 at 224 pixels, 90 epochs in 130 minutes on 32 cores of v3",
        rate=90 * _IMAGENET / (130 * 60) / 16,
        source="https://github.com/google-deepmind/dm-haiku/blob/main/examples/imagenet/README.md",
        **_RESNET_50,
        **_V3,
    ),
    Anchor(
        what="ResNet-50 with group normalisation at 224 pixels, 90 epochs in 32 minutes on 128 cores of v3",
        rate=90 * 0.99 * _IMAGENET / (32 * 60) / 64,
        source="https://github.com/google-research/big_vision/blob/main/big_vision/configs/bit_i1k.py",
        **_RESNET_50,
        **_V3,
    ),
    Anchor(
        what="ResNet-50 at 224 pixels, 480,000 images/s on 512 cores of v3",
        rate=480_000 / 256,
        source="https://threadreaderapp.com/thread/1223395022814339073.html",
        **_RESNET_50,
        **_V3,
    ),
)


def fractions() -> tuple[float, float]:
    """Returns the smallest and the largest share of a roofline that was reached, 0 to 1."""
    reached = [anchor.fraction for anchor in ANCHORS]
    return min(reached), max(reached)
