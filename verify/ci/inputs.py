"""The command line that the inputs of the action stand for: ``python -P -m verify.ci.inputs`` becomes that command.

Inputs come as environment variables, so that no shell ever reads them. Each is one argument, whatever it holds.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from verify.ci.workflow_commands import command

COMMAND = "sam3-video-verify"
#: Options of the gate by the variable that gives their value; one that is empty is left out.
OPTIONS = {
    "GATE_TARGET": "--target",
    "GATE_KNOWN": "--known",
    "GATE_ONLY": "--only",
    "GATE_PROFILE": "--profile",
    "GATE_HAZARDS": "--hazards",
}
#: Options that name a file of results, and the file's name.
RESULTS = {
    "--report": "report.json",
    "--junitxml": "junit.xml",
    "--html": "report.html",
}
#: The gate's status for a command that cannot be run as given.
_WRONG = 4


def arguments(inputs: Mapping[str, str]) -> list[str]:
    """The gate's arguments for the inputs, given by the names of their variables.

    Raises:
        ValueError: in one sentence, where ``args`` cannot be split, or an input holds what no argument can.
    """
    given = [f"{option}={inputs[name]}" for name, option in OPTIONS.items() if inputs.get(name)]
    results = [f"{option}={Path(inputs['GATE_RESULTS']) / name}" for option, name in RESULTS.items()]
    further = inputs.get("GATE_ARGS", "")
    try:
        return [*given, *results, *shlex.split(further)]
    except ValueError as error:
        raise ValueError(f"args: {further}: {error}: write it as for a shell") from None


def main() -> None:
    try:
        words = arguments(os.environ)
    except ValueError as error:
        print(command("error", str(error), {"title": COMMAND}), flush=True)
        sys.exit(_WRONG)
    program = str(Path(sys.executable).with_name(COMMAND))
    os.execv(program, [program, *words])


if __name__ == "__main__":
    main()
