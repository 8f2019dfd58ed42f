"""The steps of a composite action, those that are run in a shell as GitHub's runner would run them.

Steps that use other people's actions are not run: what they would give is handed in.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
#: How GitHub starts ``shell: bash``.
_BASH = ("bash", "--noprofile", "--norc", "-e", "-o", "pipefail")
#: Of the environment of these tests, what a runner has as well.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Ran:
    """A step that came to its turn."""

    name: str
    status: int = 0
    printed: str = ""
    #: What another action was given.
    given: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Runner:
    """Where an action is run, and on what."""

    action: Path
    workspace: Path
    temp: Path
    #: Outputs of steps that are not run, by their ids.
    outputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    #: Further environment variables.
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> Path:
        return self.temp / "summary.md"


def read_yaml(path: Path) -> dict[str, Any]:
    """A file of YAML, in which ``on`` is a word, as GitHub reads it."""
    data = yaml.safe_load(path.read_text())
    if True in data:
        data["on"] = data.pop(True)
    return data


def _value(expression: str, contexts: Mapping[str, Any]) -> str:
    found: Any = contexts
    for part in expression.split("."):
        found = found.get(part, "")
    return str(found)


def _filled(text: object, contexts: Mapping[str, Any]) -> str:
    return _EXPRESSION.sub(lambda match: _value(match[1], contexts), str(text))


def _wanted(condition: str | None, failed: bool, contexts: Mapping[str, Any]) -> bool:
    """Whether a step's turn comes; of conditions those are read that the action has: comparisons with a text."""
    terms = condition.split(" && ") if condition else []
    always = "always()" in terms
    for term in terms:
        if term == "always()":
            continue
        name, operator, text = term.split(" ")
        equal = _value(name, contexts) == text.strip("'")
        if equal is not (operator == "=="):
            return False
    return always or not failed


def run_action(runner: Runner, **inputs: str) -> list[Ran]:
    """Run an action with its inputs; gives the steps whose turn came, in order."""
    action = read_yaml(runner.action / "action.yml")
    given = {name: str(spec.get("default", "")) for name, spec in action["inputs"].items()} | inputs
    steps: dict[str, Any] = {name: {"outputs": values} for name, values in runner.outputs.items()}
    contexts: dict[str, Any] = {"inputs": given, "steps": steps}
    ran: list[Ran] = []
    for number, step in enumerate(action["runs"]["steps"]):
        failed = any(each.status for each in ran)
        if not _wanted(step.get("if"), failed, contexts):
            continue
        if "run" not in step:
            ran.append(Ran(step["name"], given={k: _filled(v, contexts) for k, v in step.get("with", {}).items()}))
            continue
        assert "${{" not in step["run"], "an input in a script is a command"
        script, output = runner.temp / f"step-{number}.sh", runner.temp / f"output-{number}"
        script.write_text(step["run"])
        output.touch()
        environment = {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(runner.action),
            "GITHUB_WORKSPACE": str(runner.workspace),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(runner.summary),
            "GITHUB_JOB": "gate",
            "RUNNER_TEMP": str(runner.temp),
            "RUNNER_OS": "Linux",
            "RUNNER_ARCH": "X64",
            **runner.variables,
            **{name: _filled(value, contexts) for name, value in step.get("env", {}).items()},
        }
        done = subprocess.run(
            [*_BASH, str(script)],
            cwd=runner.workspace,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )
        if "id" in step:
            lines = [line.partition("=") for line in output.read_text().splitlines()]
            steps[step["id"]] = {"outputs": {name: value for name, _, value in lines}}
        ran.append(Ran(step["name"], done.returncode, done.stdout))
    return ran
