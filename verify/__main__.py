"""The command ``sam3-video-verify [OPTIONS]``, also ``python -m verify``; takes pytest's options and the gate's own.

It works from any folder. What lies there is the business of a target, perhaps, and of nobody else: modules there are
found after all others, and settings of pytest there, its plugins and files named conftest.py are not looked at.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from verify.ci.publication import publish, publish_status, shown_on_github
from verify.engine import journal
from verify.engine.finding import STARTED_BY
from verify.engine.supervisor import supervise
from verify.page.command import asks_for_a_page, make_page

FOLDER = Path(__file__).resolve().parent
#: In place of whatever else is installed for pytest, which need not get on with this: what the gate uses.
PLUGINS = ("xdist.plugin", "pytest_timeout", "verify.plugin")


def _search_path(path: list[str], here: str, root: str) -> list[str]:
    """The search path with the gate's own folder in it, and with the folder that the command is run in at its end."""
    others = [entry for entry in path if entry not in ("", here)]
    found = others if root in others else [root, *others]
    return found if here in found else [*found, here]


def judge(arguments: list[str]) -> int:
    """Run the gate in this process; gives its exit status."""
    sys.path[:] = _search_path(sys.path, os.getcwd(), str(FOLDER.parent))
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        os.environ.pop(name, None)
    # In processes that are started from here, too: workers of xdist, and the server of ranks.
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONSAFEPATH": "1"}

    import pytest

    plugins = [argument for name in PLUGINS for argument in ("-p", name)]
    settings = ["-c", FOLDER / "command.ini", "--rootdir", FOLDER.parent, "--confcutdir", FOLDER]
    return int(pytest.main([str(FOLDER), *map(str, settings), *arguments, *plugins, "-p", "no:cacheprovider"]))


def judge_supervised(arguments: list[str]) -> NoReturn:
    """Run the gate in a process that is supervised: its status is what was come to here, and no other."""
    status = judge(arguments)
    journal.close(status)
    sys.exit(status)


#: What that process runs: -m would look for the gate in the folder that it is run in.
_CHILD = """
import sys
root = sys.argv.pop(1)
if root not in sys.path:
    sys.path.insert(0, root)
from verify.__main__ import judge_supervised
judge_supervised(sys.argv[1:])
"""


def main() -> None:
    """Judge, under torchrun in this process: there ranks watch over each other."""
    command = Path(sys.argv[0]).name
    os.environ[STARTED_BY] = "python -m verify" if command == "__main__.py" else command
    if asks_for_a_page(sys.argv[1:]):
        sys.exit(make_page(sys.argv[1:]))
    if "WORLD_SIZE" in os.environ:
        sys.exit(judge(sys.argv[1:]))
    with shown_on_github():
        status = supervise([sys.executable, "-P", "-c", _CHILD, str(FOLDER.parent), *sys.argv[1:]], publish=publish)
        publish_status(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
