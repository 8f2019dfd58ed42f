"""Bad input to the gate: each a sentence that says what to do, before anything is judged."""

from __future__ import annotations

import argparse
import importlib.util

import pytest
import torch

from fixtures.ranks import gpus
from fixtures.ranks.environment import rank_environment
from verify.engine.options import UsageError, job_world_size
from verify.request import read_options
from verify.target.loading import load


def given(**options: object) -> argparse.Namespace:
    defaults: dict[str, object] = {
        "target": "sam3",
        "builder": None,
        "loss": None,
        "train_step": None,
        "loader": None,
        "config": None,
        "only": None,
        "known": None,
        "report": None,
        "write_known": None,
        "force": False,
        "htmlpath": None,
        "pictures": None,
        "profile": "quick",
        "backend": "gloo",
        "hazards": "report",
        "inherited": "report",
        "require": None,
        "sam3": None,
        "subject": None,
        "world_sizes": None,
        "launcher": None,
        "carrier": None,
        "case": None,
        "seed": None,
    }
    return argparse.Namespace(**{**defaults, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "sam4"}, "--target sam4: unknown target; name sam3, reference, posted, package.module:Class"),
        ({"target": "no.such.module:Class"}, "module no.such.module does not import: ModuleNotFoundError"),
        ({"target": "reference.oracle.schedule:NoClass"}, r"module reference.oracle.schedule .* has no NoClass"),
        ({"target": "reference.oracle.schedule:Step"}, "is not a class of torch modules"),
        ({"target": "a b:c"}, "expected package.module:Name"),
        ({"target": "/no/such/checkout"}, "no such folder"),
        ({"target": "./tests"}, "holds no package sam3"),
        ({"builder": "reference.recipe.builder:nothing"}, "has no nothing"),
        ({"builder": "reference.oracle.schedule"}, "expected package.module:Name"),
        ({"loss": "reference.oracle.training:CORE_LOSS"}, "is not callable"),
        ({"train_step": "reference.oracle.training:nothing"}, "has no nothing"),
        ({"loader": "reference.data.coco_video:nothing"}, "has no nothing"),
        (
            {"loader": "sam3.train.data.coco_json_loaders:SAM3_VEVAL_API_FROM_JSON_NP"},
            "SAM3_VEVAL_API_FROM_JSON_NP reads none of the layouts that videos come in here .* name another --loader",
        ),
        ({"config": "/no/such/training.yaml"}, "--config /no/such/training.yaml: there is no such file"),
        ({"config": "tox.ini"}, "--config tox.ini: "),
        ({"subject": "Sam3Other"}, "--subject Sam3Other: not one of the target's: Sam3ImageOnVideoMultiGPU:chunked"),
        ({"target": "reference", "sam3": "/no/such/checkout"}, "--sam3 /no/such/checkout: no such folder"),
        ({"only": "schedul"}, "neither a group .* nor a check; --list-checks names them"),
        ({"only": "schedule,test_nothing"}, "--only test_nothing"),
        ({"only": ","}, "names nothing"),
        ({"require": "datas"}, "--require datas: neither a group"),
        ({"require": ","}, "--require names nothing"),
        ({"require": "data", "only": "schedule"}, "--require: test_.* is required, and --only leaves it out"),
        ({"world_sizes": "0"}, "a world size is from 1 to 64, not 0"),
        ({"world_sizes": "2,65"}, "a world size is from 1 to 64, not 65"),
        ({"world_sizes": "two"}, "expected numbers"),
        ({"report": "/no/such/folder/report.json"}, "there is no folder /no/such/folder"),
        ({"known": "/no/such/known.toml"}, "--known /no/such/known.toml: No such file"),
        ({"case": "{}"}, "name the check with --only"),
        ({"case": "{", "only": "test_coverage"}, "--case: Expecting property name"),
        ({"case": "[]", "only": "test_coverage"}, "--case: not an object"),
        ({"case": '{"frames": 1}', "only": "test_coverage"}, "--case: .*world_size"),
        ({"case": '{"frames": 1, "world_size": 1, "speed": 1}', "only": "test_coverage"}, "unknown field 'speed'"),
        ({"case": '{"frames": 0, "world_size": 1}', "only": "test_coverage"}, "--case: "),
        ({"case": '{"frames": 1, "world_size": 99}', "only": "test_coverage"}, "from 1 to 64, not 99"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_options(given(**options), None)
    assert "\n" not in str(caught.value)


def test_nccl_without_enough_gpus() -> None:
    world_size = gpus.count() + 1
    with pytest.raises(UsageError, match=f"needs a GPU a rank: {world_size} ranks, .* use --backend gloo"):
        read_options(given(backend="nccl", world_sizes=str(world_size)), None)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, and NCCL."""
    monkeypatch.setattr(gpus, "count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)


@pytest.mark.usefixtures("two_gpus")
def test_nccl_on_as_many_gpus_as_ranks() -> None:
    assert read_options(given(backend="nccl", world_sizes="1,2"), None).backend == "nccl"
    with pytest.raises(
        UsageError, match=r"needs a GPU a rank: 4 ranks, 2 GPUs here; .* fewer ranks with --world-sizes"
    ):
        read_options(given(backend="nccl"), None)
    case = {"only": "test_coverage", "case": '{"frames": 2, "world_size": 2}'}
    assert read_options(given(backend="nccl", **case), None).case  # its ranks count, not those of drawn cases


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("option", ["launcher", "carrier"])
@pytest.mark.filterwarnings("ignore:--carrier")
def test_threads_are_not_on_nccl(option: str) -> None:
    with pytest.raises(UsageError, match=r"--backend nccl is of ranks that are processes, .* --launcher threads"):
        read_options(given(backend="nccl", world_sizes="2", **{option: "threads"}), None)


def test_torch_without_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(UsageError, match="--backend nccl: this torch was built without NCCL; use --backend gloo"):
        read_options(given(backend="nccl", world_sizes="1"), None)


@pytest.mark.usefixtures("two_gpus")
def test_nccl_under_torchrun_on_two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rank_environment(3, 4, ranks_per_node=2).items():
        monkeypatch.setenv(name, value)
    options = read_options(given(backend="nccl"), 4)  # two ranks here, and two GPUs
    assert options.launchers == ("processes",)  # threads would compute on this rank's GPU
    assert read_options(given(), 4).launchers == ("threads", "processes")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(
        UsageError, match=r"needs a GPU a rank: 3 ranks, 2 GPUs here; use --backend gloo, or .* torchrun"
    ):
        read_options(given(backend="nccl"), 4)
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(UsageError, match="--backend nccl needs LOCAL_RANK, which torchrun sets"):
        read_options(given(backend="nccl"), 4)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "0"}, "a world size is from 1 to 64"),
        ({"WORLD_SIZE": "65"}, "a world size is from 1 to 64"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE=four"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set and MASTER_ADDR is not: start with torchrun"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT is not"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "RANK is not"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "RANK": "2"}, "from 0 to 1"),
    ],
)
def test_bad_environment(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        job_world_size(variables)


def test_no_job() -> None:
    assert job_world_size({}) is None
    assert job_world_size({"WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1", "RANK": "1"}) == 2


def test_sam3_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    load.cache_clear()
    with pytest.raises(UsageError, match=r"sam3 is not installed: pip install sam3==0\.1\.4, or name a checkout"):
        read_options(given(), None)


def test_what_is_inherited_is_looked_for_unless_told_not_to() -> None:
    assert read_options(given(), None).inherits
    assert not read_options(given(known="none"), None).inherits


def test_the_former_name_of_the_launcher_still_works_and_warns() -> None:
    with pytest.warns(UserWarning, match="--carrier is now called --launcher"):
        assert read_options(given(carrier="threads"), None).launchers == ("threads",)
