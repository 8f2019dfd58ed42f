"""Each check of the data path fails on the bug it is for, says so in its words, and passes on variants that conform."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.forks.data import BUGS, CONFORMING
from fixtures.forks.data.configured import COLLATE, DATASET, LOADER, LOADING, TRANSFORMS, Fork, write_configuration
from fixtures.forks.data.transforms import BENT
from tests.judging import assert_caught
from verify.configuration.reading import why_not_readable
from verify.data.case import Loading, loading_from_json
from verify.engine.check import THREADS
from verify.engine.judge import Gate
from verify.engine.launchers import Launchers
from verify.engine.profile import Profile
from verify.engine.result import FAILED, NOT_APPLICABLE, NOT_PROVIDED, PASSED, SKIPPED, Result
from verify.groups import registered
from verify.target.naming import Target

pytest_plugins = ["tests.judging"]

#: As many cases as the gate draws by default, and no time for making a failing one smaller.
SEEDED = Profile("seeded", examples=25, process_examples=2, shrink_seconds=0.0)
#: A few cases for each check: what must pass does so in all of them.
FEW = Profile("few", examples=8, process_examples=1, shrink_seconds=0.0)
CHECKS = [name for name, check in registered().items() if check.group == "data"]
DATA_BUGS = {name: bug for name, bug in BUGS.items() if bug.check in CHECKS}
#: What sam3's own dataset does wrong besides.
SAMS_OWN = {"test_tiling_and_query_limit", "test_missing_frames"}
#: What is said of annotations of videos alone.
OF_VIDEOS = {"test_mask_layouts"}


def judge(target: Target, check: str, launchers: Launchers, profile: Profile = SEEDED) -> Result:
    return Gate(target, launchers, profile).judge(registered()[check], THREADS)


@pytest.mark.parametrize("bug", DATA_BUGS.values(), ids=list(DATA_BUGS))
def test_bug_is_caught(bug: Fork, launchers: Launchers, tmp_path: Path) -> None:
    target = Target("reference", config=str(write_configuration(tmp_path / "fork.yaml", bug)))
    finding = assert_caught(judge(target, bug.check, launchers), bug.says)
    again = Gate(target, launchers, SEEDED, case=loading_from_json(finding.case))
    assert again.judge(registered()[bug.check], THREADS).outcome == FAILED


@pytest.mark.parametrize("name", CONFORMING)
def test_variant_passes(name: str, launchers: Launchers, tmp_path: Path) -> None:
    target = Target("reference", config=str(write_configuration(tmp_path / "fork.yaml", CONFORMING[name])))
    # What comes after the draw of a clip's frames has no part in sampling, whose eighty epochs take long.
    drawn = any(
        key == LOADING or key.startswith("trainer.data.train.dataset.")
        for key in CONFORMING[name].settings.keys() - {TRANSFORMS}
    )
    judged = [check for check in CHECKS if drawn or check != "test_sampling"]
    results = {check: judge(target, check, launchers, FEW) for check in judged}
    passed = {check for check, result in results.items() if result.outcome == PASSED}
    # Where a transform changes colours, nothing can be told from them.
    blind = {check for check, result in results.items() if result.outcome == SKIPPED}
    assert blind <= ({"test_transforms_keep_targets", "test_frames_alike"} if name == "colours_changed" else set())
    other = SAMS_OWN if name == "PlainWithEpochs" else OF_VIDEOS if name == "FromImages" else set()
    assert {check: result for check, result in results.items() if check not in passed | blind | other} == {}


def test_reference_passes(launchers: Launchers) -> None:
    assert {judge(Target("reference"), check, launchers, FEW).outcome for check in CHECKS} == {PASSED}


def test_posted_gets_no_clip(launchers: Launchers) -> None:
    assert {judge(Target("posted"), check, launchers, FEW).outcome for check in OF_VIDEOS} == {NOT_APPLICABLE}
    for check in [check for check in CHECKS if check not in OF_VIDEOS]:
        finding = assert_caught(judge(Target("posted"), check, launchers, FEW), "Not enough stages to sample")
        assert "COCO_FROM_JSON (sam3's default, for single images)" in finding.message


def test_a_loader_alone_is_judged_on_sams_own_dataset(launchers: Launchers) -> None:
    target = Target("sam3", loader="reference.data.coco_video:CocoVideo")
    outcomes = {check: judge(target, check, launchers, FEW).outcome for check in CHECKS}
    assert {check for check, outcome in outcomes.items() if outcome == FAILED} == {*SAMS_OWN, "test_sampling"}


@pytest.mark.parametrize(
    ("place", "otherwise", "check", "says"),
    [
        pytest.param(
            LOADER,
            "loaders.OneWordForTwo",
            "test_own_objects",
            "which category 'thing' stands for: it expects objects of pebble and corner",
            id="a text for two categories",
        ),
        pytest.param(
            COLLATE,
            "collators.clip_by_clip_twice",
            "test_loader_makes_clips",
            "collators.clip_by_clip_twice makes several batches, and none of exactly what is looked",
            id="a collator that gives no clip by itself",
        ),
    ],
)
def test_what_cannot_be_told_is_not_judged(
    launchers: Launchers, tmp_path: Path, place: str, otherwise: str, check: str, says: str
) -> None:
    fork = Fork({place: f"fixtures.forks.data.{otherwise}"})
    target = Target("reference", config=str(write_configuration(tmp_path / "fork.yaml", fork)))
    result = judge(target, check, launchers, FEW)
    assert result.outcome == SKIPPED, result
    assert says in result.reason


def test_frames_that_are_bent_are_not_compared(launchers: Launchers, tmp_path: Path) -> None:
    target = Target("reference", config=str(write_configuration(tmp_path / "fork.yaml", BENT)))
    case = Loading(stages=6, objects=4, own_transforms=True)
    result = Gate(target, launchers, FEW, case=case).judge(registered()["test_frames_alike"], THREADS)
    assert result.outcome == SKIPPED, result
    assert "the transforms do more to a frame than to resize, crop, pad, flip, turn and shear it" in result.reason


def test_what_comes_without_a_configuration_is_not_provided(launchers: Launchers) -> None:
    result = judge(Target("sam3"), "test_own_objects", launchers)
    assert result.outcome == NOT_PROVIDED
    assert "name it with --config FILE.yaml" in result.reason


def test_a_dataset_that_is_asked_otherwise_is_not_provided(launchers: Launchers, tmp_path: Path) -> None:
    fork = Fork({DATASET: "fixtures.forks.data.datasets.OwnNames"})
    target = Target("reference", config=str(write_configuration(tmp_path / "fork.yaml", fork)))
    assert why_not_readable(target) is None
    for check in CHECKS:
        result = judge(target, check, launchers)
        assert result.outcome == NOT_PROVIDED, result
        assert "OwnNames does not take num_stages_sample, stage_stride" in result.reason


def test_a_loader_of_another_layout_is_not_judged(launchers: Launchers) -> None:
    target = Target("reference", loader="sam3.train.data.coco_json_loaders:SAM3_VEVAL_API_FROM_JSON_NP")
    result = judge(target, "test_own_objects", launchers)
    assert result.outcome == NOT_PROVIDED, result
    assert "SAM3_VEVAL_API_FROM_JSON_NP reads none of the layouts" in result.reason
    assert "(COCO-video: AssertionError: Incorrect data format; COCO, an image a frame: Asser" in result.reason


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"stages": "4"}, "stages is '4': expected a whole number"),
        ({"reverse": 1}, "reverse is 1: expected true or false"),
        ({"clips": 1}, "unknown field 'clips'"),
        ({"videos": 99}, "from 1 to 30 videos"),
    ],
)
def test_malformed_case(case: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loading_from_json(case)


def test_a_case_is_read_as_it_was_written() -> None:
    case = Loading(stages=3, reverse=True, seed=5)
    assert loading_from_json(case.as_json()) == case
