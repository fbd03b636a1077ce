"""Images and videos that requests of a drawn workload bring with them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simserve.spec.base import Spec
from simserve.spec.inputs import InputsSpec
from simserve.spec.lengths import LengthSpec, exactly

Side = Annotated[int, Field(ge=1, le=1 << 16)]
Pixels = Annotated[float, Field(ge=1, le=1 << 32)]


class ImageSpec(Spec):
    """One size in pixels, and how often it occurs, against the other weights."""

    height: Side
    width: Side
    weight: float = Field(default=1.0, gt=0, le=1e9)


class ImageSizeSpec(Spec):
    """A distribution of sizes in pixels.

    fixed: height x width; listed: `sizes` by weight; lognormal: mean_pixels and std_pixels of the area itself, clipped
    to [min_pixels, max_pixels], at one of `aspect_ratios` (width / height), all equally likely; square without any;
    exact_mean: what is drawn is scaled to have that mean, as a dataset whose mean is known has.
    """

    kind: Literal["fixed", "listed", "lognormal"]
    height: Side | None = None
    width: Side | None = None
    sizes: tuple[ImageSpec, ...] | None = Field(default=None, min_length=1)
    mean_pixels: Pixels | None = None
    std_pixels: Pixels | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None
    exact_mean: bool | None = Field(default=None, exclude_if=lambda value: value is None)
    aspect_ratios: tuple[Annotated[float, Field(ge=0.01, le=100)], ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> ImageSizeSpec:
        kinds = {"fixed": ["height", "width"], "listed": ["sizes"], "lognormal": ["mean_pixels", "std_pixels"]}
        known = [name for names in kinds.values() for name in names]
        if self.kind != "lognormal":
            known += ["min_pixels", "max_pixels", "aspect_ratios", "exact_mean"]
        exactly(self, self.kind, kinds[self.kind], known)
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels:g} is larger than max_pixels {self.max_pixels:g}")
        return self


class ImagesSpec(InputsSpec):
    """Images of a workload. frames: every one is a video of so many frames, None for images."""

    size: ImageSizeSpec
    frames: LengthSpec | None = None
