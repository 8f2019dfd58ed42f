"""The configuration that a target is trained with: what it says, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from inspect import Parameter, isclass, signature
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from reference.configuration import ConfigurationError, read_configuration
from verify.engine.place import Place, place_at, place_of
from verify.target.loading import load
from verify.target.naming import CONFIG, Target

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


def taken_by(target: Target, **options: Any) -> dict[str, Any]:
    """Those of some options that the target's dataset of clips can be given."""
    name = configuration_of(target).trainer.data.train.dataset["_target_"]
    return {option: value for option, value in options.items() if takes(name, option)}


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
