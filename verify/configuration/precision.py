"""The precision that a target is trained in: what its configuration sets for AMP."""

from __future__ import annotations

import torch
from omegaconf import OmegaConf

from reference.configuration import ConfigurationError
from verify.configuration.configured import configuration_of
from verify.target.loading import load
from verify.target.naming import Target

#: What the recipe sets: a target that comes without a configuration is taken to be trained so.
_OF_THE_RECIPE = torch.bfloat16
#: Names of precisions in a configuration, as sam3's Trainer reads them; the first is its default.
_NAMED = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def trained_in(target: Target) -> torch.dtype:
    """The precision of the autocast that a target is trained under; float32 where its configuration has AMP off."""
    if load(target).config is None:
        return _OF_THE_RECIPE
    try:
        amp = OmegaConf.select(configuration_of(target), "trainer.optim.amp") or {}
    except ConfigurationError:  # the groups that read the rest of it say so
        return _OF_THE_RECIPE
    if not amp.get("enabled", False):
        return torch.float32
    return _NAMED.get(str(amp.get("amp_dtype", "float16")), _OF_THE_RECIPE)


def why_no_autocast(target: Target) -> str | None:
    """Say why a target is not tried under autocast, or give None where it is trained under it."""
    if trained_in(target) is torch.float32:
        return "its configuration trains without AMP (trainer.optim.amp.enabled is false)"
    return None
