"""Training on clips with sam3's own Trainer: ``python -m reference.train --config NAME key=value …``.

For one process; for several, ``torchrun --nproc-per-node N -m reference.train …``. A run that is started again with
the same ``paths.output`` goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from reference.configuration import ConfigurationError, assert_files_are_there, datasets, read_configuration
from reference.data.coco_video import BadAnnotations
from reference.data.video_dataset import UnusableClip
from reference.recipe.without_cuda import trainer_without_cuda

#: Exit status where the configuration, the data or the loss does not allow training.
USAGE, FAILED = 2, 1
#: What scipy, which sam3's matcher asks, says of costs that are no numbers.
_NO_NUMBERS = "invalid numeric entries"
#: Losses of layers before the last and of one-to-many matching, which the summary leaves out.
_PARTS = re.compile(r"_aux_|_o2m")


def _become_the_only_rank() -> None:
    """Set what torchrun would set for a single process."""
    if "WORLD_SIZE" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def statistics(config: DictConfig) -> list[Mapping[str, float]]:
    """What the trainer recorded of each epoch of this run and of those that it goes on from."""
    path = Path(config.trainer.logging.log_dir) / "train_stats.json"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _summary(config: DictConfig, before: int) -> str:
    epochs = statistics(config)
    if len(epochs) == before:
        return f"nothing left to train: {config.trainer.max_epochs} epochs were done before; raise trainer.max_epochs"
    lines = [f"trained {len(epochs) - before} epochs" + (f" after {before} of an earlier run" if before else "")]
    for name, value in epochs[-1].items():
        if name.startswith("Losses/") and not _PARTS.search(name) and isinstance(epochs[0].get(name), float):
            lines.append(f"  {name.removeprefix('Losses/')}: {epochs[0][name]:.4g} -> {value:.4g}")
    lines.append(f"checkpoint: {Path(config.trainer.checkpoint.save_dir) / 'checkpoint.pt'}")
    return "\n".join(lines)


def _cause(error: BaseException) -> str:
    """The message of an error, without the stack of the data loader's worker that it may come with."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].partition(f"{type(error).__name__}: ")[2] or lines[-1] if lines else type(error).__name__


def _below_hydra(error: BaseException) -> BaseException:
    """The error of what was to be made, which Hydra wraps in one of its own at each level."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def assert_data_can_be_used(config: DictConfig) -> None:
    """Make the datasets of a configuration once: what is wrong with them should show before a model is built.

    Raises:
        UnusableClip, BadAnnotations: where the data cannot be trained on.
    """
    for dataset in datasets(config).values():
        try:
            with redirect_stdout(StringIO()):  # sam3's datasets print their length
                instantiate(dataset)
        except Exception as error:
            cause = _below_hydra(error)
            if isinstance(cause, (UnusableClip, BadAnnotations)):
                raise cause from cause.__cause__
            # Anything else may be due to making it alone, and comes again with the Trainer where it is not.


def train(config: DictConfig) -> None:
    """Train with a configuration, on as many ranks as were started; rank 0 prints a summary at the end.

    Raises:
        UnusableClip, BadAnnotations: where the data cannot be trained on.
        FloatingPointError: where the loss, or an output of the model, is no number any more.
    """
    _become_the_only_rank()
    before = len(statistics(config))
    with trainer_without_cuda():
        try:
            trainer = instantiate(config.trainer, _recursive_=False)
        except InstantiationException as error:
            cause = _below_hydra(error)
            raise cause from cause.__cause__
        try:
            trainer.run()
        except ValueError as error:
            if _NO_NUMBERS not in str(error):
                raise
            message = "training diverged: the model's outputs are not finite numbers any more; lower the learning rate"
            raise FloatingPointError(message) from error
    if torch.distributed.get_rank() == 0:
        print(_summary(config, before))
    torch.distributed.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, see that all is there, and train; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reference.train", description=__doc__)
    parser.add_argument("--config", default="video_finetune", help="a name in reference/configs, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values to set, as Hydra reads them")
    given = parser.parse_args(arguments)
    try:
        config = read_configuration(given.config, given.overrides)
        assert_files_are_there(config)
        assert_data_can_be_used(config)
        if not config.trainer.get("model", {}).get("checkpoint_path"):
            logging.getLogger().warning("no checkpoint: the model starts from scratch, initialised by seed")
        train(config)
    except (ConfigurationError, BadAnnotations) as error:
        print(f"error: {_cause(error)}", file=sys.stderr)
        return USAGE
    except (UnusableClip, FloatingPointError) as error:
        print(f"error: {_cause(error)}", file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
