"""Says how an image becomes one of the output's proportions: stretched, padded, cropped. Free of TensorFlow."""

from __future__ import annotations

import dataclasses

from pipeline.command import nearest

RESIZES = ("stretch", "pad", "crop")
FILL = 127.0  # beside a padded image: grey, which every mode of `pipeline.preprocess` but identity takes to about 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """Says which part of an image is seen, in training and evaluation alike.

    A view is a box around the image's centre. It becomes the whole output; augmentation moves it.

    Attributes:
      resize: "stretch": the image's own box, its proportions not kept. "pad": the smallest box of the output's
        proportions that holds the image, grey (`FILL`) where there is no image. "crop": the largest box of the output's
        proportions that the image holds.
      eval_centre: where no augmentation moves pixels, the view is a box of the output's proportions, its sides this
        fraction of those of the largest one (0.875: the usual resize of the shorter side to 256, then a crop of 224).
        0: as `resize` says.
    """

    resize: str = "stretch"
    eval_centre: float = 0.0

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            known = f'{", ".join(RESIZES)}, got "{self.resize}".{nearest(self.resize, RESIZES)}'
            raise ValueError(f"resize must be one of {known}")
        if not 0 <= self.eval_centre <= 1:
            raise ValueError(f"eval_centre must be in 0..1, got {self.eval_centre:g}")
        if self.resize == "pad" and self.eval_centre:
            raise ValueError(
                f"resize=pad shows whole images, and eval_centre={self.eval_centre:g} their centre: "
                "set eval_centre=0, or resize=crop"
            )

    @property
    def moved(self) -> View:
        """Returns the view that augmentation moves."""
        return dataclasses.replace(self, eval_centre=0.0)

    @property
    def pads(self) -> bool:
        return self.resize == "pad"

    @property
    def is_whole(self) -> bool:
        """Says whether the view is the image, its proportions not kept."""
        return self.resize == "stretch" and not self.eval_centre


STRETCH = View()
