"""Comparisons of a clip's stages with the oracle's; each raises a ``Violation`` whose message stands alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch

from verify.clips.stages import Outputs
from verify.engine.finding import Violation
from verify.tensors.describe import describe_difference, describe_tensor
from verify.tensors.tolerance import distance
from verify.training.encoding import Encoding
from verify.training.observation import Trained

#: A stage for each frame, each a list of its steps' tensors.
Clip = tuple[tuple[Outputs, ...], ...]

#: What masks alone are computed for: may be left out in training where targets carry none.
_MASK_OUTPUTS = re.compile(r"^(aux_outputs\[\d+\]\.)?(pred_masks|semantic_seg|presence_logit)(_o2m)?$")
#: What tells frames apart, for a guess at which frame a stage holds.
_TELLING = ("pred_logits", "pred_boxes")


def numbers(values: Iterable[int]) -> str:
    """Give numbers in words: ``1, 2 and 3``."""
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "none"


def parts(names: Iterable[str]) -> str:
    """Give the parts of a model that parameters belong to, in words: ``backbone.language_backbone``."""
    return ", ".join(sorted({".".join(name.split(".")[:2]) for name in names}))


def _agrees(right: Outputs, got: Outputs, tolerances: Mapping[str, float], names: Iterable[str]) -> bool:
    return all(
        name in got and got[name].shape == right[name].shape and distance(right[name], got[name]) <= tolerances[name]
        for name in names
        if name in right
    )


def frame_held(steps: Sequence[Outputs], expected: Clip, tolerances: Mapping[str, float]) -> tuple[int, ...]:
    """The frames whose logits and boxes a stage holds: one, none, or several where frames are equal."""
    return tuple(
        frame
        for frame, right in enumerate(expected)
        if steps and right and _agrees(right[-1], steps[-1], tolerances, _TELLING)
    )


def stage_table(outputs: Clip, expected: Clip, tolerances: Mapping[str, float]) -> list[list[object]]:
    """Which frame's outputs each stage holds."""
    rows: list[list[object]] = [["stage", "steps", "holds"]]
    for number, steps in enumerate(outputs):
        held = frame_held(steps, expected, tolerances)
        rows.append([number, len(steps), f"frame {numbers(held)}" if held else "no frame's outputs"])
    return rows


def assert_in_order(
    frames: int, misfit: str | None, outputs: Clip, expected: Clip, tolerances: Mapping[str, float]
) -> None:
    """There is one stage a frame, and none holds another frame's outputs."""
    if misfit is not None:
        raise Violation(misfit, expected="SAM3Output with a list of steps' outputs for each frame", got=misfit)
    table = stage_table(outputs, expected, tolerances)
    if len(outputs) != frames:
        found = {frame for steps in outputs for frame in frame_held(steps, expected, tolerances)}
        lost = [frame for frame in range(frames) if frame not in found]
        what = f": frame {numbers(lost)} {'is' if len(lost) == 1 else 'are'} missing" if lost else ""
        raise Violation(
            f"{len(outputs)} stages came back for a clip of {frames} frames{what}",
            frame=lost[0] if lost else None,
            expected=f"{frames} stages, one a frame",
            got=f"{len(outputs)} stages",
            table=table,
        )
    for frame, steps in enumerate(outputs):
        held = frame_held(steps, expected, tolerances)
        if held and frame not in held:
            raise Violation(
                f"stage {frame} holds the outputs of frame {numbers(held)}",
                frame=frame,
                expected=f"the outputs of frame {frame}",
                got=f"the outputs of frame {numbers(held)}",
                table=table,
            )


def assert_same_outputs(
    message: str,
    expected: Clip,
    outputs: Clip,
    tolerances: Mapping[str, float],
    *,
    masks_optional: bool = False,
    table: Sequence[Sequence[object]] = (),
) -> None:
    """Every tensor of every stage of ``expected`` is in ``outputs``, and lies no further off than it may.

    Args:
        message: with ``{frame}`` where the frame's number is to stand.
        masks_optional: whether what is computed for masks alone may be missing.
    """
    if [len(steps) for steps in outputs] != [len(steps) for steps in expected]:
        raise Violation(
            "the stages are not those of the clip",
            expected=f"steps a stage: {', '.join(str(len(steps)) for steps in expected)}",
            got=f"steps a stage: {', '.join(str(len(steps)) for steps in outputs) or 'no stage'}",
            table=table,
        )
    for frame, (right_steps, got_steps) in enumerate(zip(expected, outputs, strict=True)):
        for right, got in zip(right_steps, got_steps, strict=True):
            for name, values in right.items():
                allowed = tolerances.get(name, 0.0)
                found = got.get(name)
                if found is None:
                    if masks_optional and _MASK_OUTPUTS.match(name):
                        continue
                    raise Violation(
                        f"frame {frame}'s outputs lack {name}",
                        frame=frame,
                        tensor=name,
                        expected=describe_tensor(values),
                        got="keys " + ", ".join(sorted(key for key in got if "[" not in key)),
                        table=table,
                    )
                discrete = not values.is_floating_point()
                if discrete and allowed == float("inf"):
                    continue  # one rounding step of the images changes it in the oracle, too
                same_shape = found.shape == values.shape
                if same_shape and found.dtype == values.dtype and distance(values, found) <= allowed:
                    continue
                apart = f"; {describe_difference(values, found)}, {allowed:.2g} allowed" if same_shape else ""
                raise Violation(
                    message.format(frame=frame),
                    frame=frame,
                    tensor=name,
                    expected=describe_tensor(values),
                    got=describe_tensor(found) + apart,
                    table=table,
                )


def assert_same_loss(message: str, expected: float, got: float, tolerance: float, frames: int) -> None:
    """Two losses are equal up to rounding."""
    if abs(expected - got) <= tolerance:
        return
    ratio = f", {got / expected:.4g} times as much" if expected else ""
    raise Violation(
        message,
        tensor="loss",
        expected=f"{expected:.8g} ± {tolerance:.2g}, from the {frames} frames one by one",
        got=f"{got:.8g}{ratio}",
    )


def encodings_by_module(encodings: Iterable[Encoding]) -> dict[str, list[Encoding]]:
    """Calls by the convolution that images arrived at, where any of them is an image of the batch."""
    found: dict[str, list[Encoding]] = {}
    for encoding in encodings:
        found.setdefault(encoding.module, []).append(encoding)
    return {name: calls for name, calls in found.items() if any(None not in call.images for call in calls)}


def assert_encoded_once(calls: Sequence[Encoding], frames: Mapping[int, int]) -> None:
    """Each image that a stage refers to arrived once."""
    counts = dict.fromkeys(frames, 0)
    for call in calls:
        for image in call.images:
            if image in counts:
                counts[image] += 1
    wrong = {image: count for image, count in counts.items() if count != 1}
    if not wrong:
        return
    most = max(wrong.values())
    times = {0: "not at all", 2: "twice", 3: "three times"}.get(most, f"{most} times")
    which = sorted({frames[image] for image, count in wrong.items() if count == most})
    sizes = [len(call.images) for call in calls]
    span = "call 1" if len(sizes) == 1 else f"calls 1-{len(sizes)}"
    rows: list[list[object]] = [["call", "images", "frames"]]
    for number, call in enumerate(calls, 1):
        of = [frames.get(image, "?") if image is not None else "?" for image in call.images]
        rows.append([number, len(call.images), ", ".join(map(str, of))])
    raise Violation(
        f"the image backbone encoded frame{'s' * (len(which) > 1)} {', '.join(map(str, which))} {times}: "
        f"{', '.join(map(str, sizes))} images in {span}",
        frame=which[0],
        tensor=calls[0].module,
        expected=f"{len(counts)} images, each once",
        got=f"{sum(sizes)} images in {len(sizes)} call{'s' * (len(sizes) > 1)}",
        table=rows,
    )


def assert_gradients(seen: Trained) -> None:
    """Every parameter's gradient is what the frames' one by one come to."""
    wrong = [item for item in seen.gradients if item.got and item.expected and not item.apart <= item.tolerance]
    if not wrong:
        return
    wrong.sort(key=lambda item: item.apart / max(item.expected_norm, 1e-30), reverse=True)
    rows: list[list[object]] = [["parameter", "norm expected", "norm got", "apart", "allowed"]]
    for item in wrong[:8]:
        rows.append(
            [
                item.name,
                f"{item.expected_norm:.4g}",
                f"{item.got_norm:.4g}",
                f"{item.apart:.3g}",
                f"{item.tolerance:.2g}",
            ]
        )
    shares = torch.tensor([item.share for item in wrong])
    alike = float(shares.median()) if float(shares.std(unbiased=False)) < 1e-3 else None
    hint = f"; all are {alike:.4g} times what they should be" if alike is not None and abs(alike - 1) > 1e-3 else ""
    raise Violation(
        f"the gradients of {len(wrong)} of {len(seen.gradients)} parameters are not those of the frames one by "
        f"one, summed as the loss sums them{hint}",
        tensor=wrong[0].name,
        expected=f"norm {wrong[0].expected_norm:.6g}",
        got=f"norm {wrong[0].got_norm:.6g}, off by up to {wrong[0].apart:.3g}, {wrong[0].tolerance:.2g} allowed",
        table=rows,
    )
