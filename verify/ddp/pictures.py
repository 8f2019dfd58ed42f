"""Pictures of training under DistributedDataParallel: the collectives that each rank's forward and loss issue."""

from __future__ import annotations

from typing import Any

from fixtures.ranks import RanksFailed
from verify.ddp.case import DataParallel
from verify.ddp.single_process import collectives_of_a_step
from verify.engine.picture import SEQUENCE, Picture, cut, mismatch_in_words, sequences
from verify.target.naming import Target

#: Ranks side by side.
RANKS = 4


def shows(case: DataParallel) -> float:
    return -float(case.world_size)


def collectives_pictures(case: DataParallel, seen: Any, target: Target) -> tuple[Picture, ...]:
    """What the forward and the loss issue on each rank's first clip, whether or not the ranks came through it.

    Taken in a single process, clip by clip: ranks that meet the wrong collective do not live to tell.
    """
    ranks = range(min(case.world_size, RANKS))
    issued = [collectives_of_a_step(target, case.pairing, case.clip(rank)) for rank in ranks]
    if not any(issued):
        return ()  # the loss is normalised by each rank alone
    during = [[f"a clip of {case.clip(rank).frames} frames"] * len(issued[rank]) for rank in ranks]
    data = sequences(issued, during)
    lengths = ", ".join(
        f"{len(issued[rank])} on rank {rank}, of whose clip the length is {case.clip(rank).frames}" for rank in ranks
    )
    ends = mismatch_in_words(data)
    failed = " The ranks did not come through it." if isinstance(seen, RanksFailed) else ""
    description = (
        f"Collectives that the forward and the loss issue by themselves, beside those of DistributedDataParallel, in "
        f"order: {lengths}. {ends}{failed}{cut(min(SEQUENCE, data['of']), data['of'], 'collectives')}"
        f"{cut(len(ranks), case.world_size, 'ranks')}"
    )
    return (Picture("sequences", "Collectives of forward and loss, as each rank issues them", description, data),)
