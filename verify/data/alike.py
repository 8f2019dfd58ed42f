"""Whether the frames of a clip are placed alike in their images: resized, cropped, padded, flipped and turned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fixtures.synthetic.videos import SIZE
from verify.configuration.videos import videos_of
from verify.data.agreement import clip_table
from verify.data.batch import Arrived
from verify.data.case import Loading
from verify.data.placing import NEAR
from verify.engine.finding import NotCovered, Violation

#: How far scales and places may lie apart: an object is some twenty pixels wide, so that its scale is known to a tenth
#: or two, its place better.
_SCALES_NEAR, _PLACES_NEAR = 0.25, 0.15
#: How far off one affine map of all frames an object's centre has to lie for the frames to be placed otherwise for
#: certain: a strong perspective, the same in all frames, is two hundredths of the image off.
_MAP_FAR = 0.07
#: So many objects fit some affine map whatever has been done to them.
_FIT_ANY = 3

#: Which axis of the file each axis of the image is along, and whether it is flipped (-1) or not: with axes exchanged,
#: quarter turns.
Way = tuple[tuple[int, int], tuple[int, int]]
_WAYS: list[Way] = [(axes, flips) for axes in ((0, 1), (1, 0)) for flips in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
#: Scale and place along both axes of the image.
Placement = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Object:
    """An object that an image shows whole: its box and centre there and in its file, in parts of width and height."""

    stage: int
    box: tuple[float, ...]
    centre: tuple[float, float]
    box_in_file: tuple[float, ...]
    centre_in_file: tuple[float, float]

    def placement(self, way: Way) -> Placement:
        """What takes the object's box from its file into the image; scales are below 0 where an axis is flipped."""
        scales, places = [], []
        for axis, (along, flipped) in enumerate(zip(*way, strict=True)):
            low, high = self.box_in_file[along], self.box_in_file[along + 2]
            scale = flipped * (self.box[axis + 2] - self.box[axis]) / (high - low)
            scales.append(scale)
            places.append((self.box[axis] + self.box[axis + 2]) / 2 - scale * (low + high) / 2)
        return scales[0], scales[1], places[0], places[1]


def _centre(mask: torch.Tensor) -> tuple[float, float]:
    """The middle of all pixels of a mask [H, W], in parts of its width and height."""
    row, column = ((mask.nonzero().float().mean(0) + 0.5) / torch.tensor(mask.shape)).tolist()
    return column, row


def _whole_objects(clip: Arrived, case: Loading) -> list[_Object]:
    """The objects of a clip, but for those at an edge of their image, which may have been cut there."""
    found = []
    for stage, queries in enumerate(clip.stages):
        shown = queries[0].shown
        assert shown is not None
        tracks = videos_of(case.spec()).tracks[shown.video]
        for number, box in shown.boxes.items():
            before, mask = tracks[number].box(shown.frame), tracks[number].masks[shown.frame]
            if before is not None and mask is not None and min(box) > NEAR / 2 and max(box) < 1 - NEAR / 2:
                left, top, width, height = before
                corners = (left / SIZE[0], top / SIZE[1], (left + width) / SIZE[0], (top + height) / SIZE[1])
                centre = _centre(shown.pixels == number)
                found.append(_Object(stage, box, centre, corners, _centre(torch.from_numpy(mask))))
    return found


def _other(objects: Sequence[_Object], way: Way) -> tuple[int, Placement, Placement] | None:
    """The first object that is placed otherwise than the first of all: its stage, and both placements."""
    first = objects[0].placement(way)
    for found in objects:
        place = found.placement(way)
        off = [abs(a - b) for a, b in zip(place, first, strict=True)]
        if max(off[:2]) > _SCALES_NEAR or max(off[2:]) > _PLACES_NEAR:
            return found.stage, first, place
    return None


def _off_one_map(objects: Sequence[_Object]) -> tuple[float, int]:
    """How far an object's centre lies, at most, from where the affine map that fits all best has it; and its stage."""
    before = torch.tensor([[*found.centre_in_file, 1.0] for found in objects], dtype=torch.float64)
    after = torch.tensor([found.centre for found in objects], dtype=torch.float64)
    fitted = before @ (torch.linalg.pinv(before) @ after)
    return max(zip((after - fitted).abs().amax(1).tolist(), (found.stage for found in objects), strict=True))


def assert_alike(clip: Arrived, case: Loading) -> bool:
    """The frames of a clip are placed alike in their images. Gives whether there was anything to compare.

    Raises:
        NotCovered: where what is done to a frame is neither of what is known here, nor plainly another in each.
    """
    objects = _whole_objects(clip, case)
    stages = [[*group] for _, group in itertools.groupby(objects, key=lambda found: found.stage)]
    if len(stages) < 2:
        return False
    others = [_other(objects, way) for way in _WAYS]
    if None in others:
        return True
    off, stage = _off_one_map(objects)
    if off <= NEAR:  # turned by an angle, or sheared
        return len(objects) > _FIT_ANY
    if all(any(_other(frame, way) is None for way in _WAYS) for frame in stages):
        # The way that explains most of the stages, of which the first is one.
        stage, first, place = max((other for other in others if other is not None), key=lambda other: other[0])
        raise _violation(
            f"stage {stage} is resized or placed otherwise than the stages before it",
            stage,
            "scale {:.2f} x {:.2f}, place {:.2f}, {:.2f}".format(*first),
            "scale {:.2f} x {:.2f}, place {:.2f}, {:.2f}".format(*place),
            clip,
        )
    if off > _MAP_FAR:
        raise _violation(
            f"stage {stage} is turned, sheared or placed otherwise than the other stages",
            stage,
            "the same of all frames",
            f"an object {off:.2f} of the image off where the other objects' places have it",
            clip,
        )
    raise NotCovered("the transforms do more to a frame than to resize, crop, pad, flip, turn and shear it")


def _violation(message: str, stage: int, expected: str, got: str, clip: Arrived) -> Violation:
    return Violation(message, frame=stage, tensor="img_batch", expected=expected, got=got, table=clip_table(clip))
