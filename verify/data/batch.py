"""A collated batch, read back: what each stage asks for, of which image, and what it expects there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from fixtures.synthetic.videos import CATEGORIES, Shown, box_around, look_at

#: How the texts of a clip are marked as its own before it is put into a batch.
_MARK = re.compile(r" in video (\d+)")


@dataclass(frozen=True)
class Query:
    """One text asked for in one frame, with what is expected."""

    text: str
    #: Index of the image in the batch, and what it shows; None where its colours are unknown.
    image: int
    shown: Shown | None
    #: Left, top, right, bottom in parts of the image.
    boxes: tuple[tuple[float, ...], ...]
    #: The smallest box around each object's mask, the same way; None where it has none, empty where that is empty.
    masks: tuple[tuple[float, ...] | None, ...]

    @property
    def category(self) -> int | None:
        """Number of the category that the text names."""
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


def _around_masks(target: Any) -> tuple[tuple[float, ...] | None, ...]:
    """The box around the mask of each object of a stage, as ``Query.masks`` has them."""
    if target.segments is None or not len(target.segments):
        return (None,) * int(target.num_boxes.sum())
    segments = zip(target.segments, target.is_valid_segment, strict=True)
    return tuple(box_around(mask) or () if valid else None for mask, valid in segments)


def read_batch(batch: Any, mean: torch.Tensor, std: torch.Tensor) -> Arrived:
    """Read a collated batch: what each stage asks for, of which image, and what it expects there.

    ``mean`` and ``std`` [3, 1, 1] are what its images were normalised with.
    """
    images = tuple(look_at(image.float() * std + mean) for image in batch.img_batch)
    stages = []
    for find, target in zip(batch.find_inputs, batch.find_targets, strict=True):
        queries, start, around = [], 0, _around_masks(target)
        for number, (image, text) in enumerate(zip(find.img_ids.tolist(), find.text_ids.tolist(), strict=True)):
            count = int(target.num_boxes[number])
            boxes = tuple(_corners(box) for box in target.boxes.view(-1, 4)[start : start + count])
            queries.append(
                Query(batch.find_text_batch[text], image, images[image], boxes, around[start : start + count])
            )
            start += count
        stages.append(tuple(queries))
    return Arrived(tuple(stages), images)
