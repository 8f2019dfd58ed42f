"""The command-line options that name a target."""

from __future__ import annotations

import argparse
from typing import Any

from verify.target.naming import Target


def add_options(parser: Any) -> None:
    """Declare the target's options in a pytest parser."""
    group = parser.getgroup("verify", "sam3-video-verify")
    group.addoption(
        "--target",
        default="sam3",
        metavar="TARGET",
        help="what is verified: sam3 (as installed), reference, posted, package.module:Class, or a checkout's path",
    )
    group.addoption(
        "--sam3", metavar="PATH", help="the checkout that reference and posted stand on (default: the installed sam3)"
    )
    group.addoption("--subject", metavar="NAME", help="of several classes and buffers this one: Class, kind or both")
    group.addoption("--builder", metavar="MODULE:FUNCTION", help="the function that builds the target's model")
    group.addoption("--loss", metavar="MODULE:FUNCTION", help="the function that makes the target's training loss")
    group.addoption("--train-step", metavar="MODULE:FUNCTION", help="how the target's own training calls the model")
    group.addoption("--loader", metavar="MODULE:NAME", help="what reads the target's annotations into clips")
    group.addoption("--config", metavar="FILE", help="the configuration that the target is trained with (YAML)")


def read_target(given: argparse.Namespace) -> Target:
    """The target that pytest's parsed options name."""
    return Target(
        given.target, given.builder, given.loss, given.train_step, given.loader, given.config, sam3=given.sam3
    )
