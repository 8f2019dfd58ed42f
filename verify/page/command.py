"""Making a page of a report that is there: ``--html FILE --from REPORT``, which runs nothing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from verify.page.files import NoPage, make

#: pytest's exit status for a command that cannot be run as given.
_USAGE = 4


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise NoPage(message)


def asks_for_a_page(arguments: Sequence[str]) -> bool:
    """Whether a command line is to make a page of a report that is there."""
    return any(argument == "--from" or argument.startswith("--from=") for argument in arguments)


def make_page(arguments: Sequence[str]) -> int:
    """Make what a command line asks for, in words on standard output; gives the exit status."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for option in ("--from", "--html", "--pictures"):
        parser.add_argument(option, dest=option.strip("-"), action="append", default=[], nargs="?", const="")
    try:
        given, others = parser.parse_known_args(list(arguments))
        if others:
            raise NoPage(f"--from makes a page and runs nothing: leave out {others[0]}")
        for name, values in vars(given).items():
            if len(values) > 1:
                raise NoPage(f"--{name} is given {len(values)} times: give it once")
            if values == [""]:
                raise NoPage(f"--{name} names nothing")
        paths = {name: Path(values[0]) if values else None for name, values in vars(given).items()}
        if os.environ.get("RANK", "0") != "0":
            return 0  # under torchrun rank 0 alone writes
        source = paths["from"]
        assert source is not None
        for path in make(source, paths["html"], paths["pictures"]):
            print(path)
    except NoPage as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return _USAGE
    return 0
