"""What docs/ci.md tells a maintainer to write is accepted where it is put, and names what there is."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ci.steps import read_yaml
from tests.commands import ROOT
from verify.groups import GROUPS, registered

PAGE = ROOT / "docs" / "ci.md"
ACTION, WORKFLOW = read_yaml(ROOT / "action.yml"), read_yaml(ROOT / ".github" / "workflows" / "gate.yml")
PROJECT = "OWNER/sam3-video-verify"
#: What of this project a workflow may use, with the inputs that it has.
INPUTS = {
    PROJECT: ACTION["inputs"],
    f"{PROJECT}/.github/workflows/gate.yml": WORKFLOW["on"]["workflow_call"]["inputs"],
}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


WORKFLOWS = [block for block in _blocks("yaml") if block.startswith("on:")]
GITLAB = [block for block in _blocks("yaml") if not block.startswith("on:")]


def _valid(schema: str, text: str, folder: Path) -> None:
    (folder / "file.yml").write_text(text)
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(folder / "file.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _uses(data: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(data, dict):
        if "uses" in data:
            yield data["uses"], data.get("with", {})
        data = list(data.values())
    for value in data if isinstance(data, list) else ():
        yield from _uses(value)


@pytest.mark.parametrize("text", WORKFLOWS)
def test_workflows_are_accepted_and_give_inputs_that_there_are(text: str, tmp_path: Path) -> None:
    _valid("vendor.github-workflows", text, tmp_path)
    own = [(name.partition("@")[0], given) for name, given in _uses(yaml.safe_load(text)) if name.startswith("OWNER")]
    assert own
    for name, given in own:
        assert name in INPUTS
        assert set(given) <= set(INPUTS[name])


def test_a_fork_needs_six_lines() -> None:
    assert [len(text.splitlines()) for text in WORKFLOWS[:2]] == [6, 6]


def test_the_job_of_gitlab_is_accepted_and_installs_what_the_action_does(tmp_path: Path) -> None:
    (text,) = GITLAB
    _valid("vendor.gitlab-ci", text, tmp_path)
    extras = re.findall(r"\[([\w,]+)\]\"", text)
    (install,) = (step["run"] for step in ACTION["runs"]["steps"] if step["name"] == "Install")
    assert extras == re.findall(r"PATH\[([\w,]+)\]\"", install)
    job = yaml.safe_load(text)["gate"]
    words = shlex.split(job["script"][0])
    assert {words[words.index(option) + 1] for option in ("--report", "--junitxml", "--html")} == set(
        job["artifacts"]["paths"]
    )


def test_a_job_that_gitlab_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        _valid("vendor.gitlab-ci", GITLAB[0].replace("when: always", "when: sometimes"), tmp_path)


def test_every_input_is_told_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) ?\| ", PAGE.read_text(), re.MULTILINE))
    told = {name: rows[name].strip("`") for name in ACTION["inputs"]}
    defaults = {name: spec["default"] for name, spec in ACTION["inputs"].items()}
    assert told == {**defaults, "only": "all"}


def test_names_of_checks_and_groups_are_right() -> None:
    (known,) = _blocks("toml")
    (entry,) = tomllib.loads(known)["known"]
    assert entry["check"] in registered()
    for names in re.findall(r"only: (\S+)", PAGE.read_text()):
        assert set(names.split(",")) <= {*GROUPS, *registered()}
