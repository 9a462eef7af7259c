"""Says whether a dataset can be kept decoded on the accelerator (`pipeline.resident`). Free of TensorFlow."""

from __future__ import annotations

from pipeline.augment.config import AugmentConfig
from pipeline.format.manifest import Manifest
from pipeline.ratios import usable_ratios
from pipeline.view import View

# Decoded before the first step, sent to other hosts in one message (of at most 2 GiB), and held by every replica.
MOST_BYTES = 1 << 30


def size(manifest: Manifest) -> int:
    """Counts the bytes of all images, each filled up to the height and width of the largest ones."""
    images = sum(manifest.num_examples(split) for split in manifest.splits)
    return images * manifest.max_height * manifest.max_width * 3


def obstacle(
    manifest: Manifest, augment: AugmentConfig, *, height: int, width: int, view: View, limit: int = MOST_BYTES
) -> str | None:
    """Says why a dataset cannot be kept on the accelerator and rendered there; None if it can.

    Args:
      augment: of training.
      height, width: of the images that come out.
      view: which part of an image is seen.
      limit: bytes that it may take.
    """
    if view.pads:
        return "resize=pad puts grey beside images, which the host does"
    if augment.policy:
        return f"policy={augment.policy} is applied to images on the host"
    if augment.moves and not augment.is_window:
        turned = [f"{name}={getattr(augment, name):g}" for name in ("rotation", "shear") if getattr(augment, name)]
        shifted = f"shift={augment.shift:g} with zoom={augment.zoom:g}, above 0.5 together,"
        return (
            f"{' and '.join(turned) or shifted} cannot be done to rows and columns one after the other, which is how "
            "images are rendered on a device; the host does it"
        )
    source = {"source_height": manifest.max_height, "source_width": manifest.max_width}
    if usable_ratios(**source, height=height, width=width, view=view.moved if augment.moves else view) > 1:
        return (
            f"images of up to {manifest.max_height}x{manifest.max_width} pixels are reduced to {height}x{width} while "
            "decoding, and would lie on the device at full size; --max_side of the build makes them smaller"
        )
    if (found := size(manifest)) > limit:
        return f"the decoded images take {found >> 20} MiB, and at most {limit >> 20} MiB are kept on a device"
    return None
