"""SAM 3's detector over video, corrected: it trains on clips frame by frame, and its multi-GPU buffer answers rightly.

On top of sam3's class; what is not overridden here is sam3's. Each override says why in its first line.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import torch
from sam3.model.data_misc import BatchedDatapoint, BatchedFindTarget, FindStage
from sam3.model.geometry_encoders import Prompt
from sam3.model.model_misc import SAM3Output
from sam3.model.sam3_image import Sam3ImageOnVideoMultiGPU

from reference.recipe.cache_key import cache_key, copied_key, equal_keys
from reference.recipe.differentiable_mlp import make_differentiable
from reference.recipe.suppression import suppressed
from reference.recipe.unused_outputs import used_together
from reference.recipe.without_cuda import without_pinning

logger = logging.getLogger(__name__)

#: What the buffer keeps of a detection; masks only where there is a segmentation head.
DETECTION = ("pred_logits", "pred_boxes", "pred_boxes_xyxy", "pred_masks")
#: Prefix of the tracker's features in the buffer and in its answers: the names that sam3's tracking reads.
TRACKER = "tracker_backbone_"
#: Where an entry of the buffer says what it answers; laid out as all else in an entry: (value, handle).
CACHE_KEY = "cache_key"
#: Fields that matching reads of a target.
TARGET_FIELDS = ("num_boxes", "boxes", "boxes_padded")
#: Where a neck holds the layers that make the tracker's features: sam3's neck of two, and SAM 3.1's of three.
TRACKER_NECKS = ("sam2_convs", "propagation_convs")

#: The arguments that mask NMS is asked for with, and their values where none is.
NMS_SETTINGS = ("run_nms", "nms_prob_thresh", "nms_iou_thresh", "nms_use_iom")
NO_NMS = (False, None, None, False)

#: The buffer: for each frame, by name, a value and the handle to wait on before it is read.
Buffer = MutableMapping[int, dict[str, tuple[Any, Any]]]


class Sam3ImageOnVideo(Sam3ImageOnVideoMultiGPU):
    """A detector that takes clips in training and evaluation, and whole videos through a chunked multi-GPU buffer.

    Args (beside those of sam3's class):
        gather_backbone_out: whether the buffer carries the tracker's features; by default, where there is a tracker
            neck (``enable_inst_interactivity`` of the builder) to compute them.
        interactive_prompt_sampler: for evaluation with ``num_interactive_steps_val`` > 0: an object whose
            ``sample(geo_prompt=…, find_target=…, previous_out=…)`` returns the next step's prompt and something else.

    Nothing temporal is trained: each frame of a clip is detected by itself, and the tracker is no part of the model.
    Rank and world size are those of RANK and WORLD_SIZE when the model is made.
    """

    def __init__(
        self,
        *args: Any,
        gather_backbone_out: bool | None = None,
        interactive_prompt_sampler: Any = None,
        **kwargs: Any,
    ) -> None:
        """Gather what the tracker neck computes, not whatever the backbone's class is; hold the prompt sampler.

        The MLPs that SAM 3.1 computes by a kernel for inference alone are made trainable, in the parts given.
        """
        super().__init__(*args, gather_backbone_out=gather_backbone_out, **kwargs)
        make_differentiable(self)
        if gather_backbone_out is None:
            vision = getattr(self.backbone, "vision_backbone", None)
            self.gather_backbone_out = any(getattr(vision, neck, None) is not None for neck in TRACKER_NECKS)
        self.interactive_prompt_sampler = interactive_prompt_sampler

    # The detector, one frame

    def forward_grounding(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run where there is no CUDA, too: sam3's geometry encoder pins memory in each call."""
        with without_pinning():
            return super().forward_grounding(*args, **kwargs)

    def _run_segmentation_heads(
        self, out: dict[str, Any], backbone_out: dict[str, Any], img_ids: torch.Tensor, **rest: Any
    ) -> None:
        """Leave the features where all frames find them; look a frame up where it lies when encoded on demand."""
        if self.segmentation_head is None:
            return  # sam3 drops ``backbone_fpn`` here, and every later frame is encoded once more
        if backbone_out.get("id_mapping") is not None:
            img_ids = backbone_out["id_mapping"][img_ids]
        super()._run_segmentation_heads(out=out, backbone_out=backbone_out, img_ids=img_ids, **rest)

    def back_convert(self, targets: BatchedFindTarget | None) -> dict[str, Any] | None:
        """Pass on that a frame has no targets, which is fine outside training."""
        return None if targets is None else super().back_convert(targets)

    def _compute_matching(self, out: dict[str, Any], targets: dict[str, Any] | None) -> None:
        """Match only what has targets: the buffer detects without."""
        if targets is not None:
            super()._compute_matching(out, targets)

    # Clips

    def forward(self, input: BatchedDatapoint) -> SAM3Output:
        """Take all frames of a clip, where sam3's forward takes a single one.

        Args:
            input: a batch of clips of T frames as sam3's collator makes it: ``find_inputs`` and ``find_targets``
                hold a stage for each frame, in order. It is not changed.

        Returns:
            One stage a frame, in order; a stage lists its steps' outputs, one step in training and
            ``num_interactive_steps_val + 1`` in evaluation. An output is what sam3's ``forward_grounding`` gives
            for Q queries: ``pred_logits`` [Q, N, 1], ``pred_boxes`` [Q, N, 4], and so on. Where there are targets
            and a matcher, it holds ``indices``, so that a loss can be computed in evaluation, too.

        Raises:
            ValueError: in training, when a frame's targets or a field of them are missing (named by frame), or when
                there are more targets than frames.
            RuntimeError: in evaluation with interactive steps, when what they need is missing (named).
        """
        targets = self._targets(input)
        interactive_steps = 0 if self.training else self.num_interactive_steps_val
        if interactive_steps:
            self._check_interactive(targets)
        shared = {"img_batch_all_stages": input.img_batch, **self.backbone.forward_image(input.img_batch)}
        if self.segmentation_head is None:  # the finer levels are for masks alone
            shared["backbone_fpn"] = shared["backbone_fpn"][-self.num_feature_levels :]
        shared |= self.backbone.forward_text(input.find_text_batch, device=self.device)

        stages = [
            self._forward_frame(shared, find_input, target, interactive_steps)
            for find_input, target in zip(input.find_inputs, targets, strict=True)
        ]
        if self.segmentation_head is None:
            shared.pop("backbone_fpn")  # as in sam3's forward, features do not live as long as the outputs
        result = SAM3Output(iter_mode=SAM3Output.IterMode.LAST_STEP_PER_STAGE)
        for steps in stages:
            result.append([used_together(out) for out in steps] if torch.is_grad_enabled() else steps)
        return result

    def _forward_frame(
        self, shared: dict[str, Any], find_input: FindStage, target: BatchedFindTarget | None, interactive_steps: int
    ) -> list[dict[str, Any]]:
        """Detect one frame, in evaluation with further steps under prompts drawn from the step before."""
        if find_input.input_points is not None and find_input.input_points.numel() > 0:
            logger.warning("point prompts are ignored: the detector is prompted with text and boxes")
        prompt = Prompt(
            box_embeddings=find_input.input_boxes,
            box_mask=find_input.input_boxes_mask,
            box_labels=find_input.input_boxes_label,
        ).clone()
        steps: list[dict[str, Any]] = []
        for step in range(interactive_steps + 1):
            if step:
                prompt, _ = self.interactive_prompt_sampler.sample(
                    geo_prompt=prompt, find_target=target, previous_out=steps[-1]
                )
            out = self.forward_grounding(
                backbone_out=shared, find_input=find_input, find_target=target, geometric_prompt=prompt.clone()
            )
            if "indices" not in out and self.matcher is not None:
                self._compute_matching(out, self.back_convert(target))  # sam3 matches in training alone
            steps.append(out)
        return steps

    def _targets(self, batch: BatchedDatapoint) -> list[BatchedFindTarget | None]:
        """Give a target for each frame, or None in evaluation.

        Raises:
            ValueError: when there are targets for frames that are not, or, in training, some are missing.
        """
        frames, given = len(batch.find_inputs), list(batch.find_targets or ())
        if len(given) > frames:
            raise ValueError(f"find_targets holds {len(given)} targets for {frames} frames (find_inputs)")
        targets = given + [None] * (frames - len(given))
        if self.training:
            for frame, target in enumerate(targets):
                if target is None:
                    raise ValueError(
                        f"find_targets[{frame}] is missing: training needs the targets of frame {frame} "
                        f"(a clip of {frames} frames came with {len(given)} entries in find_targets)"
                    )
                for field in TARGET_FIELDS:
                    if getattr(target, field) is None:
                        raise ValueError(
                            f"find_targets[{frame}].{field} is missing: training needs it for frame {frame}"
                        )
        return targets

    def _check_interactive(self, targets: Sequence[BatchedFindTarget | None]) -> None:
        """Raise RuntimeError naming what interactive evaluation needs and does not have."""
        missing = []
        if self.interactive_prompt_sampler is None:
            missing.append("interactive_prompt_sampler (an object with sample(geo_prompt, find_target, previous_out))")
        if self.matcher is None:
            missing.append("a matcher (build with eval_mode=False)")
        missing += [f"find_targets[{frame}]" for frame, target in enumerate(targets) if target is None]
        if missing:
            raise RuntimeError(
                f"evaluation with num_interactive_steps_val={self.num_interactive_steps_val} needs {', '.join(missing)}"
            )

    # Videos

    def forward_video_grounding_multigpu(
        self,
        backbone_out: dict[str, Any],
        find_inputs: Sequence[FindStage],
        geometric_prompt: Prompt,
        frame_idx: int,
        num_frames: int,
        multigpu_buffer: Buffer,
        track_in_reverse: bool = False,
        return_sam2_backbone_feats: bool = False,
        run_nms: bool = False,
        nms_prob_thresh: float | None = None,
        nms_iou_thresh: float | None = None,
        nms_use_iom: bool = False,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Answer what is asked, whatever was asked before, and hold no more than two chunks.

        sam3's keeps an answer by frame alone, so another prompt gets the old prompt's; leaves chunks behind when
        frames are visited out of order; returns the tracker's features whether asked for or not; and hands out its
        own memory.

        All ranks call it with the same arguments. Frames form chunks of ``world_size``; rank r detects frame b + r of
        the chunk that starts at b. The chunk after the current one, in the direction of the scan, is detected ahead
        under the current prompts; when it is then visited under others, it is detected again, by all ranks together.

        Args:
            backbone_out: text features and images (``img_batch_all_stages``), or image features of all frames.
            find_inputs: a stage for each frame of the video.
            geometric_prompt: the prompt for ``frame_idx``; it may differ from call to call.
            frame_idx: the frame to answer for.
            num_frames: frames in the video.
            multigpu_buffer: kept by the caller from call to call, one for each video.
            track_in_reverse: whether the scan goes backwards.
            return_sam2_backbone_feats: whether to return the tracker's features, where they are gathered; also as
                ``return_tracker_backbone_feats``, the name that sam3's own video model uses.
            run_nms: whether detections that mask NMS removes get their logit lowered by 1e4.
            nms_prob_thresh: score above which detections take part in NMS; the others are lowered, too.
            nms_iou_thresh: mask overlap above which the detection of lower score is removed.
            nms_use_iom: whether overlap is intersection over the smaller mask, and not over the union.
            kwargs: what later versions of sam3 pass on (a scan's limits, ``feature_cache``); no answer depends on it.

        Returns:
            The frame's ``pred_logits`` [P, N, 1], ``pred_boxes`` and ``pred_boxes_xyxy`` [P, N, 4], ``pred_masks``
            [P, N, H, W] (with a segmentation head), as detected and without gradient on any number of ranks; if asked
            for, ``tracker_backbone_fpn_0`` to ``_2`` (bfloat16) and ``tracker_backbone_pos_enc``; and ``backbone_out``.

        Raises:
            ValueError: when the frame is not in the video, or thresholds or masks for NMS are missing.
            RuntimeError: when tracker features are to be gathered and the detector has none.
        """
        if not 0 <= frame_idx < num_frames:
            raise ValueError(f"frame {frame_idx} is not in a video of {num_frames} frames")
        current = self._chunk(frame_idx, num_frames)
        following = self._chunk(current.start - 1 if track_in_reverse else current.stop, num_frames)
        _keep_only({*current, *following}, multigpu_buffer)

        settings = (run_nms, nms_prob_thresh, nms_iou_thresh, nms_use_iom) if run_nms else NO_NMS
        key = cache_key(backbone_out, find_inputs[frame_idx], geometric_prompt, settings)
        how = {
            "backbone_out": backbone_out,
            "find_inputs": find_inputs,
            "geometric_prompt": geometric_prompt,
            "num_frames": num_frames,
            "multigpu_buffer": multigpu_buffer,
            **dict(zip(NMS_SETTINGS, settings, strict=True)),
        }
        entry = multigpu_buffer.get(frame_idx)
        if entry is None or not equal_keys(entry[CACHE_KEY][0], key):
            self._build_multigpu_buffer_next_chunk(frame_idx_begin=current.start, frame_idx_end=current.stop, **how)

        features = return_sam2_backbone_feats or kwargs.get("return_tracker_backbone_feats", False)
        out = {}
        for name, (value, handle) in multigpu_buffer[frame_idx].items():
            if name == CACHE_KEY or (name.startswith(TRACKER) and not features):
                continue
            if handle is not None:
                handle.wait()
            out[name] = _callers_own(value)

        if any(frame not in multigpu_buffer for frame in following):
            self._build_multigpu_buffer_next_chunk(frame_idx_begin=following.start, frame_idx_end=following.stop, **how)
        return out, backbone_out

    def _chunk(self, frame: int, num_frames: int) -> range:
        """Give the frames of the chunk that ``frame`` lies in; none when it is outside the video."""
        if not 0 <= frame < num_frames:
            return range(0)
        begin = frame - frame % self.world_size
        return range(begin, min(begin + self.world_size, num_frames))

    def _build_multigpu_buffer_next_chunk(
        self,
        backbone_out: dict[str, Any],
        find_inputs: Sequence[FindStage],
        geometric_prompt: Prompt,
        frame_idx_begin: int,
        frame_idx_end: int,
        num_frames: int,
        multigpu_buffer: Buffer,
        run_nms: bool = False,
        nms_prob_thresh: float | None = None,
        nms_iou_thresh: float | None = None,
        nms_use_iom: bool = False,
    ) -> None:
        """Detect without gradient on any number of ranks (gathered results carry none), noting what was asked."""
        frame = min(frame_idx_begin + self.rank, frame_idx_end - 1)  # ranks past the end repeat the last frame
        with torch.no_grad():
            detected = self.forward_grounding(
                backbone_out=backbone_out,
                find_input=find_inputs[frame],
                find_target=None,
                geometric_prompt=geometric_prompt,
            )
            found = {name: detected[name].detach() for name in DETECTION if name in detected}
            if run_nms:
                found["pred_logits"] = suppressed(found, nms_prob_thresh, nms_iou_thresh, nms_use_iom)
            encodings = None
            if self.gather_backbone_out:
                levels, encodings = _tracker_features(backbone_out, detected, find_inputs[frame])
                found |= {f"{TRACKER}fpn_{level}": value for level, value in enumerate(levels)}
            del detected
            gathered = {name: self._gather_tensor(value) for name, value in found.items()}
        for rank, frame in enumerate(range(frame_idx_begin, frame_idx_end)):
            entry = {name: (values[rank], handle) for name, (values, handle) in gathered.items()}
            if encodings is not None:
                entry[f"{TRACKER}pos_enc"] = (encodings, None)
            settings = (run_nms, nms_prob_thresh, nms_iou_thresh, nms_use_iom)
            key = cache_key(backbone_out, find_inputs[frame], geometric_prompt, settings)
            entry[CACHE_KEY] = (copied_key(key), None)
            multigpu_buffer[frame] = entry


def _callers_own(value: Any) -> Any:
    """Copy a tensor, or each of a list, so that a caller who changes it does not change the buffer."""
    return value.clone() if torch.is_tensor(value) else [level.clone() for level in value]


def _keep_only(frames: Iterable[int], buffer: Buffer) -> None:
    """Drop all other frames from the buffer, once what is on its way into their memory has arrived."""
    kept = set(frames)
    for frame in [frame for frame in buffer if frame not in kept]:
        for _, handle in buffer.pop(frame).values():
            if handle is not None:
                handle.wait()


def _tracker_features(
    backbone_out: dict[str, Any], detected: dict[str, Any], find_input: FindStage
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Give the tracker neck's levels of the frame in bfloat16, finest first, and their position encodings.

    Raises:
        RuntimeError: when the detector computed none.
    """
    neck = detected["prev_encoder_out"]["backbone_out"].get("sam2_backbone_out")
    if neck is None:
        raise RuntimeError(
            "gather_backbone_out is on, but the detector has no tracker neck whose features could be gathered: build "
            "it with enable_inst_interactivity=True, or leave gather_backbone_out unset"
        )
    levels = [getattr(level, "tensors", level) for level in neck["backbone_fpn"]]  # SAM 3.1's come with a mask
    encodings = list(neck["vision_pos_enc"])
    if "backbone_fpn" in backbone_out:  # the caller encoded all frames: pick this one's
        images = torch.unique(find_input.img_ids)
        levels, encodings = ([part[images] for part in parts] for parts in (levels, encodings))
    return [level.detach().to(torch.bfloat16) for level in levels], encodings
