"""A collated batch, read back: what each stage asks for, of which image, and what it expects there."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fixtures.synthetic.videos import CATEGORIES, Shown, box_around, look_at

#: How the texts of a clip are marked as its own before it is put into a batch.
_MARK = re.compile(r" in video (\d+)")


@dataclass(frozen=True)
class Mask:
    """A mask that is expected, laid over the image that it is expected of."""

    #: The smallest box around it: left, top, right, bottom in parts of the image; empty where the mask is.
    box: tuple[float, ...]
    #: How many pixels it takes of each object of the image, and of the background (-1), and how many each has; empty
    #: where it is not of the image's size, or the image's colours are unknown.
    takes: Mapping[int, int]
    of: Mapping[int, int]

    def wrong(self, objects: Collection[int]) -> int:
        """Count the pixels that are not as in a mask of these objects of the image."""
        lacks = sum(self.of.get(number, 0) - self.takes.get(number, 0) for number in objects)
        return lacks + sum(count for number, count in self.takes.items() if number not in objects)


@dataclass(frozen=True)
class Query:
    """One text asked for in one frame, with what is expected."""

    text: str
    #: Index of the image in the batch, and what it shows; None where its colours are unknown.
    image: int
    shown: Shown | None
    #: Left, top, right, bottom in parts of the image.
    boxes: tuple[tuple[float, ...], ...]
    #: The same as the matcher is given them; None where the target has no padded boxes.
    padded: tuple[tuple[float, ...], ...] | None
    #: Of each object; None where it has none.
    masks: tuple[Mask | None, ...]
    #: Of all its objects together; None where the target has none.
    semantic: Mask | None
    #: Whether what is not annotated is not there, so that finding it counts as an error.
    exhaustive: bool

    @property
    def said(self) -> str:
        """The text without what it was marked with."""
        return _MARK.sub("", self.text)

    @property
    def named(self) -> int | None:
        """Number of the category that the text names; None where it names none, or several."""
        named = [number for number, name in enumerate(CATEGORIES) if name in self.text.lower()]
        return named[0] if len(named) == 1 else None

    @property
    def asked_of(self) -> int | None:
        """Number of the video whose clip the text came with, where it was marked."""
        found = _MARK.search(self.text)
        return int(found[1]) if found else None


#: The queries of each stage of a batch.
Stages = tuple[tuple[Query, ...], ...]


@dataclass(frozen=True)
class Arrived:
    """A batch that a data path has made: a clip, or several together."""

    stages: Stages
    #: What each image of the batch shows.
    images: tuple[Shown | None, ...]


def _corners(box: torch.Tensor) -> tuple[float, ...]:
    x, y, width, height = (float(value) for value in box.flatten())
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _counts(pixels: torch.Tensor) -> dict[int, int]:
    values, counts = pixels.unique(return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True) if value >= -1}


def _laid_over(mask: torch.Tensor, shown: Shown | None, of: Mapping[int, int]) -> Mask:
    """Compare a mask [..., H, W] with the image that it is expected of, and with how many pixels each object has."""
    mask = mask.reshape(mask.shape[-2:]).bool()
    box = box_around(mask) or ()
    if shown is None or shown.pixels.shape != mask.shape:
        return Mask(box, {}, {})
    return Mask(box, _counts(shown.pixels[mask]), of)


def _has(values: Any) -> bool:
    return values is not None and len(values) > 0


def read_batch(batch: Any, mean: torch.Tensor, std: torch.Tensor) -> Arrived:
    """Read a collated batch: what each stage asks for, of which image, and what it expects there.

    ``mean`` and ``std`` [3, 1, 1] are what its images were normalised with.
    """
    images = tuple(look_at(image.float() * std + mean) for image in batch.img_batch)
    sizes = [{} if shown is None else _counts(shown.pixels) for shown in images]
    stages = []
    for find, target in zip(batch.find_inputs, batch.find_targets, strict=True):
        queries, start = [], 0
        for number, (image, text) in enumerate(zip(find.img_ids.tolist(), find.text_ids.tolist(), strict=True)):
            end, shown = start + int(target.num_boxes[number]), images[image]
            own = range(start, end)
            masks = (
                _laid_over(target.segments[k], shown, sizes[image]) if target.is_valid_segment[k] else None for k in own
            )
            queries.append(
                Query(
                    text=batch.find_text_batch[text],
                    image=image,
                    shown=shown,
                    boxes=tuple(_corners(box) for box in target.boxes.view(-1, 4)[start:end]),
                    padded=None
                    if target.boxes_padded is None
                    else tuple(_corners(box) for box in target.boxes_padded[number, : len(own)]),
                    masks=tuple(masks) if _has(target.segments) else (None,) * len(own),
                    semantic=_laid_over(target.semantic_segments[number], shown, sizes[image])
                    if _has(target.semantic_segments)
                    else None,
                    exhaustive=bool(target.is_exhaustive[number]),
                )
            )
            start = end
        stages.append(tuple(queries))
    return Arrived(tuple(stages), images)
