"""The configuration that a target is trained with: what it says, what reads its annotations, why it cannot be tried."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from inspect import Parameter, isclass, signature
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

from fixtures.synthetic.videos import VIDEO_ANNOTATIONS
from reference.configuration import ConfigurationError, read_configuration
from verify.configuration.videos import LAYOUTS, SAMPLE, videos_of
from verify.engine.place import Place, place_at, place_of
from verify.target.loading import load
from verify.target.naming import CONFIG, Target

#: sam3's own loader, where none is named: COCO annotations of single images.
_IMAGE_LOADER = "sam3.train.data.coco_json_loaders.COCO_FROM_JSON"
#: sam3's own dataset of clips: what a loader is tried with where no configuration names another.
VIDEO_DATASET = "sam3.train.data.sam3_video_dataset.VideoGroundingDataset"


#: What a configuration has to say.
_NEEDED = (
    "trainer.model._target_",
    "trainer.loss",
    "trainer.optim",
    "trainer.data.train.collate_fn",
    "trainer.data.train.dataset._target_",
    "trainer.data.train.dataset.transforms",
)


@lru_cache(maxsize=8)
def configuration_of(target: Target) -> DictConfig:
    """The configuration that a target is trained with.

    Raises:
        ConfigurationError: when the one that is named cannot be read.
    """
    named = load(target).config
    if named is None and target.loader is None:
        raise ConfigurationError(
            f"{target.spec} comes without a configuration of training: name it with --config FILE.yaml, or what reads "
            "the annotations with --loader package.module:Name"
        )
    config = read_configuration(named or CONFIG)
    for key in _NEEDED:
        if OmegaConf.select(config, key) is None:
            raise ConfigurationError(f"--config {named}: has no {key}, which a Trainer on clips needs")
    OmegaConf.set_struct(config, False)
    dataset = config.trainer.data.train.dataset
    if named is None:
        dataset["_target_"] = VIDEO_DATASET
        dataset.pop("seed", None)
    if target.loader is not None:
        dataset.coco_json_loader = {"_target_": target.loader.replace(":", "."), "_partial_": True}
    return config


def why_no_data_path(target: Target) -> str | None:
    """Say why the data path of a target cannot be tried, or give None where it can."""
    try:
        refused = _refused_layouts(target)
    except ConfigurationError as error:
        return str(error)
    if len(refused) < len(LAYOUTS):
        return None
    reasons = "; ".join(f"{LAYOUTS[layout]}: {reason}" for layout, reason in refused.items())
    return (
        f"{loader_name(target)} reads none of the layouts that videos come in here ({reasons}): name another --loader"
    )


def place_of_data_path(target: Target) -> Place | None:
    """Where what reads the annotations lies, or the dataset, or the collator: the first that is not sam3's own.

    Where all are, the configuration that names them.
    """
    data = configuration_of(target).trainer.data.train
    for node in (data.dataset.get("coco_json_loader"), data.dataset, data.collate_fn):
        made_by = get_method(str(node["_target_"])) if node is not None else None
        if made_by is not None and made_by.__module__.partition(".")[0] != "sam3":
            return place_of(made_by)
    return place_of_configuration(target)


def place_of_configuration(target: Target) -> Place | None:
    """The line of the configuration of training that says what the Trainer is given; None where no file is named."""
    named = load(target).config
    path = Path(named or "")
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next((number for number, line in enumerate(lines, 1) if line.startswith("trainer:")), 1)
    return place_at(str(path), first, "configuration of training")


def declares(target: Target, option: str) -> bool:
    """Whether the target's dataset of clips takes an option by name."""
    name = configuration_of(target).trainer.data.train.dataset["_target_"]
    return any(option in parameters for parameters in _parameters(name))


def takes(name: str, option: str) -> bool:
    """Whether a class or function can be given an argument: by name, or because it takes any."""
    found = _parameters(name)
    return any(option in parameters for parameters in found) or _takes_others(found[-1])


def _takes_others(parameters: Mapping[str, Parameter]) -> bool:
    return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())


def _parameters(name: str) -> list[Mapping[str, Parameter]]:
    """The parameters of a function, or of a class's ``__init__`` and of those that it may hand on others to."""
    made_by: Any = get_method(name)
    if not isclass(made_by):
        return [signature(made_by).parameters]
    found: list[Mapping[str, Parameter]] = []
    for base in made_by.__mro__:
        if "__init__" in vars(base) and (base is not object or not found):
            found.append(signature(vars(base)["__init__"]).parameters)
            if not _takes_others(found[-1]):
                break
    return found


def loads_masks(target: Target) -> bool:
    """Whether the target's configuration loads masks, so that a stage without them has lost them on the way."""
    return bool(configuration_of(target).trainer.data.train.dataset.get("load_segmentation"))


def source_of(target: Target, stages: int) -> str:
    """What the target's clips come from, as a finding names it; with what it lacks for clips of so many ``stages``."""
    name = loader_name(target)
    try:
        node = configuration_of(target).trainer.data.train.dataset.get("coco_json_loader")
        loader = instantiate(node) if node is not None else get_method(_IMAGE_LOADER)
        with captured_text():
            loaded = loader(str(videos_of(SAMPLE).folder / layout_of(target)))
            frames = len(loaded.loadImagesFromDatapoint(loaded.getDatapointIds()[0]))
    except Exception:  # that it fails is what the finding is about
        return name
    if frames >= stages:
        return name
    return f"{name}, which makes datapoints of {frames} frame{'s' * (frames > 1)} where {stages} are asked for"


@contextmanager
def captured_text() -> Iterator[io.StringIO]:
    """Catch what is written meanwhile: sam3's datasets say there why they go on with another clip."""
    written = io.StringIO()
    with redirect_stdout(written), redirect_stderr(written):
        yield written


@lru_cache(maxsize=8)
def _refused_layouts(target: Target) -> Mapping[str, str]:
    """The layouts of annotations that a target's loader fails on, with the error."""
    node = configuration_of(target).trainer.data.train.dataset.get("coco_json_loader")
    if node is None:
        return {VIDEO_ANNOTATIONS: "sam3's default is for images"}
    folder, refused = videos_of(SAMPLE).folder, {}
    for layout in LAYOUTS:
        try:
            with captured_text():
                instantiate(node)(str(folder / layout)).getDatapointIds()
        except Exception as error:  # whatever a loader says of what it was not made for
            refused[layout] = one_line_reason(error, "")
    return refused


def layout_of(target: Target) -> str:
    """Which layout of annotations a target's loader reads; one reads some where ``lacks_data_path`` gives None."""
    return next(layout for layout in LAYOUTS if layout not in _refused_layouts(target))


def loader_name(target: Target) -> str:
    """What reads the target's annotations, as a finding names it."""
    node = configuration_of(target).trainer.data.train.dataset.get("coco_json_loader")
    return "COCO_FROM_JSON (sam3's default, for single images)" if node is None else str(node["_target_"])


def one_line_reason(error: BaseException, printed: str) -> str:
    """Say in one line why a data path failed; ``printed`` is what was caught meanwhile."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    said = [line.removeprefix("Exception: ") for line in printed.splitlines() if line.startswith("Exception: ")]
    return f"{text} ({said[0]})" if said else text
