"""Configurations for clips compose, the runner trains with them and goes on, and says in one line what is amiss."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

import reference.train
from fixtures.synthetic.videos import VIDEO_ANNOTATIONS, Videos, VideoSpec, make_videos, write
from fixtures.toy.build import build_toy
from reference.configuration import FOLDER, ConfigurationError, assert_files_are_there, read_configuration
from reference.recipe.builder import build_sam3_image_video_model
from reference.recipe.checkpoint import load_checkpoint
from reference.train import FAILED, USAGE, main
from tests.commands import Done, Run, torchrun

SPEC = VideoSpec(videos=2, frames=4, objects=2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    return make_videos(tmp_path_factory.mktemp("videos"), SPEC)


def paths(videos: Videos, output: Path) -> list[str]:
    return [
        f"paths.images={videos.folder}",
        f"paths.annotations={videos.folder / VIDEO_ANNOTATIONS}",
        f"paths.output={output}",
    ]


# Configurations


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        if node.get("_target_") == "hydra.utils.get_method":
            yield node["path"]
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(value)


@pytest.mark.parametrize("name", [file.stem for file in FOLDER.glob("*.yaml")])
def test_composes_and_everything_it_names_can_be_imported(name: str, videos: Videos, tmp_path: Path) -> None:
    config = read_configuration(name, paths(videos, tmp_path))
    assert_files_are_there(config)
    named = set(_targets(OmegaConf.to_container(config, resolve=True)))
    assert {"sam3.train.trainer.Trainer", "reference.data.video_dataset.VideoClips", "torch.optim.AdamW"} <= named
    assert [target for target in named if not callable(get_object(target))] == []


def test_toy_departs_in_size_only(videos: Videos, tmp_path: Path) -> None:
    full, toy = (read_configuration(name, paths(videos, tmp_path)) for name in ("video_finetune", "toy"))
    for key in ("loss", "mode", "checkpoint", "data.train.collate_fn", "data.train.dataset.coco_json_loader"):
        assert OmegaConf.select(toy.trainer, key) == OmegaConf.select(full.trainer, key)
    assert toy.trainer.model.builder.path == full.trainer.model._target_


def test_reads_a_configuration_of_ones_own(tmp_path: Path) -> None:
    own = write({"trainer": {"max_epochs": 3}}, tmp_path / "own.v2.yaml")
    for name in (str(own), str(own.with_suffix(""))):
        assert read_configuration(name, ["trainer.max_epochs=4"]).trainer.max_epochs == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer: [1\na: {", "while parsing a flow sequence in .*line 1"),
        ("- 1\n", "must be a DictConfig"),
        ("defaults:\n  - gone\n", "Could not load 'gone'"),
        ("a: 1\n", "has no trainer"),
        ("trainer: 3\n", "has no trainer"),
    ],
)
def test_refuses_a_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_configuration(str(path))
    assert str(caught.value).startswith(f"--config {path}: ")
    assert "\n" not in str(caught.value)


def test_a_value_that_is_missing_in_place_is_asked_for_there(tmp_path: Path) -> None:
    content = {"trainer": {"data": {"train": {"dataset": {"img_folder": "???"}}}}}
    config = read_configuration(str(write(content, tmp_path / "own.yaml")))
    where = re.escape("trainer.data.train.dataset.img_folder")
    with pytest.raises(ConfigurationError, match=f"{where} has no value: add {where}=…"):
        assert_files_are_there(config)


# What the runner refuses before anything is built


@pytest.fixture
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: Any) -> None:
        pytest.fail("training was begun")

    monkeypatch.setattr(reference.train, "train", train)


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "gone"], "--config gone: there is no such file; those that come along are toy, video_finetune"),
        (["scratch.gone=1"], "--config video_finetune: Could not override 'scratch.gone'"),
        (["nonsense"], "--config video_finetune: Error parsing override 'nonsense'"),
        (["paths.annotations=???"], "trainer.data.train.dataset.ann_file has no value: add paths.annotations=…"),
        (["paths.images=???"], "trainer.data.train.dataset.img_folder has no value: add paths.images=…"),
        (["paths.output=???"], "trainer.checkpoint.save_dir has no value: add paths.output=…"),
        (["paths.images=/gone"], "trainer.data.train.dataset.img_folder: there is no folder /gone"),
        (["paths.annotations=gone.json"], "trainer.data.train.dataset.ann_file: there is no file gone.json"),
        (["paths.checkpoint=gone.pt"], "trainer.model.checkpoint_path: there is no file gone.pt"),
    ],
)
def test_refuses_in_one_line(
    videos: Videos, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = {value.partition("=")[0] for value in arguments}
    others = [value for value in paths(videos, tmp_path) if value.partition("=")[0] not in given]
    assert main([*others, *arguments]) == USAGE
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.usefixtures("nothing_is_built")
def test_refuses_data_before_anything_is_built(
    videos: Videos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*paths(videos, tmp_path), "scratch.frames=5"]) == FAILED
    few = f"2 of 2 clips have fewer than num_stages_sample=5 frames (video {videos.video_id(0)} has 4)"
    too_short = f"{few}: lower it, or leave them out"
    assert capsys.readouterr() == ("", f"error: {videos.folder / VIDEO_ANNOTATIONS}: {too_short}\n")
    broken = write({"videos": [], "annotations": [], "categories": []}, tmp_path / "none.json")
    assert main([*paths(videos, tmp_path)[::2], f"paths.annotations={broken}"]) == USAGE
    assert capsys.readouterr() == ("", f"error: {broken}: holds no video\n")


# Runs


def losses(summary: str) -> dict[str, tuple[float, float]]:
    """The losses of a summary, of the first and of the last epoch."""
    found = re.findall(r"^  (\w+): (\S+) -> (\S+)$", summary, flags=re.MULTILINE)
    return {name: (float(first), float(last)) for name, first, last in found}


def toy(videos: Videos, output: Path, *overrides: str) -> list[str]:
    return ["--config", "toy", *paths(videos, output), "scratch.frames=2", *overrides]


@dataclass(frozen=True)
class Runs:
    """Runs on the same videos, one after the other: to two epochs, twice to a third, and some that must end early."""

    output: Path
    checkpoint: Path
    missing: Path
    no_videos: Path
    done: Mapping[str, Done]


@pytest.fixture(scope="module")
def runs(videos: Videos, run_forked: Run, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    output, nowhere = folder / "output", folder / "nowhere"
    spoilt = make_videos(folder / "spoilt", VideoSpec(videos=1, frames=2, objects=1))
    missing = spoilt.folder / spoilt.file_name(0, 1)
    missing.unlink()
    no_videos = write({"videos": [], "annotations": [], "categories": []}, folder / "none.json")
    model = build_toy(build_sam3_image_video_model, enable_segmentation=False, eval_mode=False).model
    checkpoint = folder / "toy.pt"
    torch.save({"model": model.state_dict()}, checkpoint)
    commands = {
        "first": toy(videos, output, "scratch.epochs=2"),
        "more": toy(videos, output, "scratch.epochs=3"),
        "again": toy(videos, output, "scratch.epochs=3"),
        "no videos": toy(videos, nowhere, f"paths.annotations={no_videos}"),
        "short": toy(videos, nowhere, "scratch.frames=5"),
        "missing": toy(spoilt, nowhere, "scratch.workers=1", f"paths.checkpoint={checkpoint}"),
        "diverging": toy(videos, folder / "diverging", "scratch.epochs=12", "scratch.lr_scale=1e30"),
    }
    done = {name: run_forked("reference.train", *arguments) for name, arguments in commands.items()}
    return Runs(output, checkpoint, missing, no_videos, done)


@pytest.mark.xdist_group("commands")
def test_trains_and_writes_a_checkpoint(runs: Runs) -> None:
    first, path = runs.done["first"], runs.output / "checkpoints" / "checkpoint.pt"
    assert (first.status, first.errors) == (0, []), first.err
    summary = first.out[first.out.index("trained 2 epochs\n") :]
    assert summary.endswith(f"checkpoint: {path}\n")
    assert {"train_all_loss", "train_all_loss_bbox", "train_all_loss_ce"} <= losses(summary).keys()
    assert losses(summary)["train_all_loss"] != (0.0, 0.0)
    assert path.is_file()
    assert "no checkpoint: the model starts from scratch" in first.err


@pytest.mark.xdist_group("commands")
def test_goes_on_where_it_ended_and_ends(runs: Runs) -> None:
    more, again = runs.done["more"], runs.done["again"]
    assert more.status == again.status == 0
    summary = more.out[more.out.index("trained 1 epochs after 2 of an earlier run\n") :]
    assert losses(summary)["train_all_loss"][0] == losses(runs.done["first"].out)["train_all_loss"][0]
    epochs = [json.loads(line) for line in (runs.output / "logs" / "train_stats.json").read_text().splitlines()]
    assert [(found["Trainer/epoch"], found["Trainer/steps_train"]) for found in epochs] == [(0, 2), (1, 4), (2, 6)]
    assert again.out.endswith("nothing left to train: 3 epochs were done before; raise trainer.max_epochs\n")


@pytest.mark.xdist_group("commands")
def test_ends_in_one_line_where_the_data_cannot_be_trained_on(runs: Runs) -> None:
    expected = {
        "no videos": (USAGE, f"{re.escape(str(runs.no_videos))}: holds no video"),
        "short": (FAILED, "2 of 2 clips have fewer than num_stages_sample=5 frames"),
        "diverging": (FAILED, "training diverged: the model's outputs are not finite numbers any more"),
        "missing": (FAILED, f"frame 1 of video [0-9]+ cannot be read: {re.escape(str(runs.missing))}"),
    }
    for name, (status, message) in expected.items():
        done = runs.done[name]
        assert done.status == status, done.err
        assert len(done.errors) == 1, done.err
        assert re.search(message, done.errors[0]), done.errors
        assert "Traceback" not in done.out + done.err


@pytest.mark.xdist_group("commands")
def test_starts_from_a_checkpoint_without_a_word_of_keys_left_over(runs: Runs) -> None:
    err = runs.done["missing"].err
    assert not re.search("keep their initial values|has no place|no checkpoint", err), err


def test_ranks_of_torchrun_train_together_and_one_reports(videos: Videos, tmp_path: Path) -> None:
    done = torchrun(2, "-m", "reference.train", *toy(videos, tmp_path, "scratch.epochs=1"))
    assert (done.status, done.errors) == (0, []), done.err
    assert len(re.findall(r"^trained 1 epochs$", done.out, flags=re.MULTILINE)) == 1
    assert done.out.count("checkpoint: ") == 1
    (epoch,) = (tmp_path / "logs" / "train_stats.json").read_text().splitlines()
    assert json.loads(epoch)["Trainer/steps_train"] == 1
    # What training writes can be started from.
    config = read_configuration("toy", paths(videos, tmp_path))
    model = instantiate(config.trainer.model, _convert_="all")
    loaded = load_checkpoint(model, tmp_path / "checkpoints" / "checkpoint.pt")
    assert (loaded.missing, loaded.unexpected, loaded.left_out) == ((), (), ())


# A checkpoint to start from


def test_every_key_of_a_given_checkpoint_is_loaded(
    videos: Videos, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = build_toy(build_sam3_image_video_model, seed=7, enable_segmentation=False, eval_mode=False).model
    path = tmp_path / "toy.pt"
    torch.save({"model": trained.state_dict()}, path)
    config = read_configuration("toy", [*paths(videos, tmp_path), f"paths.checkpoint={path}"])
    assert_files_are_there(config)
    with caplog.at_level("INFO", logger="reference.recipe.checkpoint"):
        model = instantiate(config.trainer.model, _convert_="all")
    wanted = trained.state_dict()
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {len(wanted)} tensors loaded, 0 left out"]
    found = model.state_dict()
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in found.items() if not torch.equal(tensor, wanted[name])] == []
