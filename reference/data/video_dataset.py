"""sam3's ``VideoGroundingDataset`` for training on clips, with what keeps it from working set right.

Each override says in one line what it is for; all else is sam3's own.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from dataclasses import replace
from typing import Any

from sam3.train.data.sam3_image_dataset import Datapoint
from sam3.train.data.sam3_video_dataset import VideoGroundingDataset

from reference.data.generators import seeded


class UnusableClip(Exception):
    """A clip cannot be trained on; the message names the file or the option. sam3's loading would replace it unseen."""


class VideoClips(VideoGroundingDataset):
    """Clips of videos; its arguments are those of ``VideoGroundingDataset``, and ``seed``.

    What is drawn for a clip (stride, first frame, direction, augmentation) follows from ``seed``, the epoch and the
    clip's index alone: it does not depend on the number of workers or ranks, and a resumed run draws what an unbroken
    one would have.

    Raises:
        UnusableClip: at once, when videos are shorter than the clips asked for; later, when a frame is missing,
            unreadable or of another size than annotated, a clip has more queries or objects than the options allow, or
            a transform fails or leaves stages uneven. Nothing is skipped or replaced.
    """

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        self.seed = seed
        super().__init__(**options)
        self._refuse_what_cannot_work()

    def _refuse_what_cannot_work(self) -> None:
        if not self.training or self.is_tiling_single_image:
            return
        clips = [self.coco.loadImagesFromDatapoint(number) for number in self.ids.tolist()]
        short = [clip for clip in clips if len(clip) < self.num_stages_sample]
        if short:
            video, length = short[0][0]["original_img_id"], len(short[0])
            raise UnusableClip(
                f"{self.annFile}: {len(short)} of {len(clips)} clips have fewer than num_stages_sample="
                f"{self.num_stages_sample} frames (video {video} has {length}): lower it, or leave them out"
            )

    # sam3's TorchDataset announces the epoch here, where sam3 0.1.4 does nothing: every epoch would draw the same.
    def set_epoch(self, epoch: int) -> None:
        self.set_curr_epoch(epoch)

    # sam3's own goes on with the next clip when one fails, and ends after 100 failures without the cause.
    def __getitem__(self, index: int) -> Datapoint:
        # A tuple's hash is the same in every process as long as it holds numbers only.
        with seeded(hash((self.seed, self.curr_epoch, index)) % 2**32):
            self.rng.seed(random.getrandbits(64))
            datapoint = self._load_datapoint(index)
            self._refuse_too_much(index, datapoint)
            for transform in self._transforms:
                try:
                    datapoint = transform(datapoint, epoch=self.curr_epoch)
                except (ValueError, AssertionError) as error:
                    raise UnusableClip(f"{self._name(index)}: {type(transform).__name__} failed: {error}") from error
        self._refuse_uneven(index, datapoint)
        return datapoint

    def _name(self, index: int) -> str:
        first = self.coco.loadImagesFromDatapoint(int(self.ids[index]))[0]
        return f"video {first['original_img_id']} of {self.annFile}"

    def _refuse_too_much(self, index: int, datapoint: Datapoint) -> None:
        option = "max_train_queries" if self.training else "max_val_queries"
        limit = self.max_train_queries if self.training else self.max_val_queries
        if len(datapoint.find_queries) > limit:
            raise UnusableClip(
                f"{self._name(index)}: {len(datapoint.find_queries)} queries (frames times categories) are more than "
                f"{option}={limit}: raise it, or ask for fewer with the loader's category_chunk_size or max_query_num"
            )
        most = max((len(query.object_ids_output) for query in datapoint.find_queries), default=0)
        if most > self.max_ann_per_img:
            limit = f"max_ann_per_img={self.max_ann_per_img}"
            raise UnusableClip(f"{self._name(index)}: {most} objects for one query are more than {limit}")

    def _refuse_uneven(self, index: int, datapoint: Datapoint) -> None:
        stages = Counter(query.query_processing_order for query in datapoint.find_queries)
        expected = self.num_stages_sample if self.training else len(datapoint.images)
        if len(stages) != expected or len(datapoint.images) != expected or len(set(stages.values())) > 1:
            counts = ", ".join(f"stage {stage}: {count}" for stage, count in sorted(stages.items()))
            raise UnusableClip(
                f"{self._name(index)}: after the transforms {len(datapoint.images)} frames and {len(stages)} stages "
                f"are left of {expected}, with queries {counts or 'none'}: a filter that drops a query must drop it "
                "in all stages"
            )

    # Frames one by one, so that the error names the file; and sam3 does not compare sizes, which shifts masks.
    def _load_images(
        self, datapoint_id: int, img_ids_to_load: set[int] | None = None
    ) -> tuple[list[tuple[int, Any]], list[dict[str, Any]]]:
        images: list[tuple[int, Any]] = []
        metadata: list[dict[str, Any]] = []
        for frame in self.coco.loadImagesFromDatapoint(datapoint_id):
            if img_ids_to_load is not None and frame["id"] not in img_ids_to_load:
                continue
            try:
                loaded, of_frame = super()._load_images(datapoint_id, {frame["id"]})
            except OSError as error:
                raise UnusableClip(
                    f"frame {frame['id']} of video {frame['original_img_id']} cannot be read: "
                    f"{self.root}/{frame['file_name']}: {error}"
                ) from error
            size = (frame.get("width", loaded[0][1].size[0]), frame.get("height", loaded[0][1].size[1]))
            if loaded[0][1].size != size:
                raise UnusableClip(
                    f"{self.root}/{frame['file_name']} is of {loaded[0][1].size} pixels, annotated for {size}"
                )
            images += loaded
            metadata += of_frame
        return images, metadata

    # sam3's own goes on with the next clip where one shows too much, and for ever where all do.
    def load_queries(self, pil_images: Any, annotations: Any, queries: Any, img_metadata: Any) -> Datapoint:
        datapoint = super().load_queries(pil_images, annotations, queries, img_metadata)
        count, limit = len(datapoint.images[0].objects), self.max_masklet_num_in_video
        if count > limit > 0:
            video = f"video {img_metadata[0]['original_img_id']} of {self.annFile}"
            raise UnusableClip(f"{video}: {count} objects are more than max_masklet_num_in_video={limit}")
        return datapoint

    # sam3 0.1.4 makes its result with an argument that a Datapoint no longer has.
    def _subsample_queries(self, datapoint: Datapoint, max_query_num: int) -> Datapoint:
        stages: dict[int, list[Any]] = {}
        for query in datapoint.find_queries:
            stages.setdefault(query.query_processing_order, []).append(query)
        count = min(len(queries) for queries in stages.values())
        if count <= max_query_num:
            return datapoint
        kept = sorted(self.rng.sample(range(count), max_query_num))
        return replace(datapoint, find_queries=[queries[number] for queries in stages.values() for number in kept])

    # sam3 0.1.4 asks queries for pointers that they no longer have.
    def _tile_single_image_data(self, datapoint: Datapoint, num_stages_sample: int) -> Datapoint:
        if len(datapoint.images) != 1:
            raise UnusableClip(
                f"is_tiling_single_image repeats single images, and a video of {self.annFile} has "
                f"{len(datapoint.images)} frames"
            )
        images, queries = [], []
        for stage in range(num_stages_sample):
            image = copy.deepcopy(datapoint.images[0])
            for item in image.objects:
                item.frame_index = stage
            images.append(image)
            for query in copy.deepcopy(datapoint.find_queries):
                geometric = query.input_bbox is not None or query.input_points is not None
                if geometric and not self.tile_img_keep_find_queries_with_geo_inputs:
                    continue
                query.image_id = query.query_processing_order = stage
                if query.inference_metadata is not None:
                    query.inference_metadata.frame_index = stage
                queries.append(query)
        raw = datapoint.raw_images and [datapoint.raw_images[0].copy() for _ in range(num_stages_sample)]
        return replace(datapoint, images=images, raw_images=raw, find_queries=queries)
