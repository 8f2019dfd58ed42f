"""Which lines of some modules are run."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from coverage import Coverage

#: Numbers of lines by module.
Lines = dict[str, list[int]]


@contextmanager
def lines_run(modules: Sequence[str]) -> Iterator[Lines]:
    """Give a mapping that holds, after the block, the lines of each module that were run in it, on whatever thread.

    The modules are imported before the block: what runs at their import is not among the lines.
    """
    paths = {name: str(importlib.import_module(name).__file__) for name in modules}
    watching = Coverage(data_file=None, include=list(paths.values()), config_file=False, messages=False)
    found: Lines = {}
    with watching.collect():
        yield found
    data = watching.get_data()
    found.update({name: sorted(data.lines(path) or []) for name, path in paths.items()})
