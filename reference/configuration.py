"""Reading a Hydra configuration for sam3's Trainer, and finding what it names missing before anything is built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from sam3.train.utils.train_utils import register_omegaconf_resolvers

#: Where the configurations of this package lie.
FOLDER = Path(__file__).parent / "configs"


class ConfigurationError(Exception):
    """A configuration cannot be trained with; the message says what to change."""


def read_configuration(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a configuration.

    Args:
        name: of a file in ``reference/configs``, with or without ``.yaml``, or the path of another YAML file.
        overrides: ``key=value``, as Hydra reads them.

    Raises:
        ConfigurationError: when there is none of this name, it does not compose, or it has no ``trainer``.
    """
    path = Path(name if name.endswith(".yaml") else f"{name}.yaml")
    path = path.resolve() if path.is_file() else FOLDER / path.name
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise ConfigurationError(f"--config {name}: there is no such file; those that come along are {known}")
    if not OmegaConf.has_resolver("times"):
        register_omegaconf_resolvers()
    try:
        with initialize_config_dir(config_dir=str(path.parent), version_base="1.2"):
            config = compose(config_name=path.stem, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigurationError(f"--config {name}: {str(error).splitlines()[0]}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--config {name}: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(config.get("trainer")):
        raise ConfigurationError(f"--config {name}: has no trainer")
    return config


def datasets(config: DictConfig) -> dict[str, DictConfig]:
    """The datasets of a configuration, by the key where each lies."""
    return {
        f"trainer.data.{phase}.dataset": loader.dataset
        for phase, loader in (config.trainer.get("data") or {}).items()
        if loader is not None and loader.get("dataset") is not None
    }


def _path(node: DictConfig, key: str, where: str) -> Path | None:
    if OmegaConf.is_missing(node, key):
        raise ConfigurationError(f"{where}.{key} has no value: add {where}.{key}=…")
    try:
        value = node.get(key)
    except OmegaConfBaseException:
        # It waits for the value of another key, which the raw text names.
        raw: Any = OmegaConf.to_container(node, resolve=False)
        named = re.search(r"\$\{([^${}]+)\}", str(raw[key]))
        raise ConfigurationError(f"{where}.{key} has no value: add {named[1] if named else raw[key]}=…") from None
    return None if value is None else Path(value)


def assert_files_are_there(config: DictConfig) -> None:
    """See that the images' folders, the annotations and the checkpoint of a configuration are there.

    Raises:
        ConfigurationError: naming the path, and the key that it comes from.
    """
    for where, dataset in datasets(config).items():
        folder, file = _path(dataset, "img_folder", where), _path(dataset, "ann_file", where)
        if folder is not None and not folder.is_dir():
            raise ConfigurationError(f"{where}.img_folder: there is no folder {folder}")
        if file is not None and not file.is_file():
            raise ConfigurationError(f"{where}.ann_file: there is no file {file}")
    model: Any = config.trainer.get("model") or {}
    checkpoint = _path(model, "checkpoint_path", "trainer.model")
    if checkpoint is not None and not checkpoint.is_file():
        raise ConfigurationError(f"trainer.model.checkpoint_path: there is no file {checkpoint}")
    checkpoints: Any = config.trainer.get("checkpoint") or {}
    _path(checkpoints, "save_dir", "trainer.checkpoint")
