"""The action and the workflow for forks: run as GitHub would, on forks, and with inputs that look like commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import write_plain
from tests.ci.runner import commands_in
from tests.ci.steps import Ran, Runner, read_yaml, run_action
from tests.commands import ROOT
from verify.ci.inputs import OPTIONS, arguments

pytestmark = pytest.mark.xdist_group("action")
ACTION, WORKFLOW = ROOT / "action.yml", ROOT / ".github" / "workflows" / "gate.yml"
BUG = """
_right = Sam3ImageOnVideoMultiGPU.forward_video_grounding_multigpu


def forward_video_grounding_multigpu(self, *args, **kwargs):
    answer, other = _right(self, *args, **kwargs)
    return {**answer, "pred_logits": answer["pred_logits"] + 1}, other


Sam3ImageOnVideoMultiGPU.forward_video_grounding_multigpu = forward_video_grounding_multigpu
"""
#: What a shell would make something of.
HOSTILE = (
    "with some spaces",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "x && touch pwned | tee pwned > pwned",
    "'quoted' \"twice\"",
    "two\nlines\ntouch pwned",
    "::add-mask::x",
    "--report=/tmp/elsewhere",
    "*",
    "${{ github.token }}",
)
#: Whether the gate has the option --html, which the action asks for.
_HAS_PAGE = any('"--html"' in path.read_text() for path in (ROOT / "verify").rglob("*.py") if path.parent.name != "ci")
RECORDER = """#!{python}
import json, os, sys
json.dump(sys.argv[1:], open(os.environ["RECORDED"], "w"))
sys.exit(int(os.environ["STATUS"]))
"""


@pytest.mark.parametrize(
    ("schema", "path"), [("vendor.github-actions", ACTION), ("vendor.github-workflows", WORKFLOW)], ids=str
)
def test_they_keep_to_the_published_schemas(schema: str, path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_script_holds_an_expression_and_each_has_its_shell() -> None:
    for step in read_yaml(ACTION)["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
        assert ("run" in step) == ("shell" in step)


def _uses(data: Any) -> list[str]:
    if isinstance(data, dict):
        return [value for key, value in data.items() if key == "uses"] + [
            name for value in data.values() for name in _uses(value)
        ]
    return [name for value in data for name in _uses(value)] if isinstance(data, list) else []


def test_actions_of_others_are_pinned() -> None:
    names = _uses(read_yaml(ACTION)) + _uses(read_yaml(WORKFLOW))
    assert all(name.startswith("./") or re.fullmatch(r"actions/[\w/-]+@v\d+", name) for name in names), names


def test_the_workflow_hands_on_each_input_and_asks_for_no_more_than_it_needs() -> None:
    action, workflow = read_yaml(ACTION), read_yaml(WORKFLOW)
    inputs = workflow["on"]["workflow_call"]["inputs"]
    assert {name: (spec["default"], spec["description"]) for name, spec in inputs.items()} == {
        name: (spec["default"], spec["description"]) for name, spec in action["inputs"].items()
    }
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert "permissions" not in job
    assert job["steps"][-1]["with"] == {name: f"${{{{ inputs.{name} }}}}" for name in inputs}
    given = {key: value for step in action["runs"]["steps"] for key, value in step.get("env", {}).items()}
    assert set(OPTIONS) <= set(given)


def test_every_input_is_one_argument() -> None:
    for said in HOSTILE:
        inputs = dict.fromkeys(OPTIONS, said) | {"GATE_RESULTS": f"/tmp/{said}"}
        made = arguments(inputs)
        assert made[: len(OPTIONS)] == [f"{option}={said}" for option in OPTIONS.values()]
        assert made[len(OPTIONS)] == f"--report=/tmp/{said}/report.json"


def test_further_options_are_split_and_not_executed() -> None:
    given = {
        "GATE_RESULTS": "/r",
        "GATE_ARGS": "--seed 3 --builder 'a b' \"$(touch pwned)\" `x` $HOME *\n-n 2 # no comment",
    }
    assert arguments(given)[3:] == [
        *("--seed", "3", "--builder", "a b", "$(touch pwned)", "`x`", "$HOME", "*", "-n", "2", "#", "no", "comment")
    ]
    with pytest.raises(ValueError, match="args: --seed 'x: No closing quotation: write it as for a shell"):
        arguments({"GATE_RESULTS": "/r", "GATE_ARGS": "--seed 'x"})


# With a command in place of the gate


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which the command writes down its arguments."""
    environment = tmp_path_factory.mktemp("recording") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "here.pth").write_text(f"{ROOT}\n")
    (packages / "pip.py").write_text("")
    command = environment / "bin" / "sam3-video-verify"
    command.write_text(RECORDER.format(python=environment / "bin" / "python"))
    command.chmod(0o755)
    return environment


def _runner(folder: Path, environment: Path, action: Path = ROOT, **variables: str) -> Runner:
    """A runner with a Python, which has the environment from its cache."""
    temp, workspace = folder / "temp", folder / "workspace"
    (temp / "sam3-video-verify").mkdir(parents=True)
    workspace.mkdir(exist_ok=True)
    (temp / "sam3-video-verify" / "environment").symlink_to(environment)
    outputs = {"python": {"python-path": sys.executable}, "cache": {"cache-hit": "true"}}
    return Runner(action, workspace, temp, outputs, variables)


def _step(ran: list[Ran], name: str) -> Ran:
    return next(each for each in ran if each.name == name)


@pytest.mark.parametrize("said", HOSTILE)
def test_an_input_reaches_the_command_as_it_is_and_is_not_executed(recording: Path, tmp_path: Path, said: str) -> None:
    recorded = tmp_path / "recorded.json"
    runner = _runner(tmp_path, recording, RECORDED=str(recorded), STATUS="0")
    names = ("target", "known", "only", "profile", "hazards", "requirements")
    ran = run_action(runner, **dict.fromkeys(names, said), args=json.dumps(said))
    assert [each.status for each in ran] == [0] * len(ran), ran
    words = json.loads(recorded.read_text())
    assert words[:5] == [f"--{name}={said}" for name in names[:5]]
    assert [word.partition("=")[0] for word in words[5:8]] == ["--report", "--junitxml", "--html"]
    assert not list(tmp_path.rglob("pwned"))
    assert commands_in("".join(each.printed for each in ran)) == []


@pytest.mark.parametrize("status", [0, 1, 4, 5])
def test_the_status_is_the_gates_and_results_are_uploaded_all_the_same(
    recording: Path, tmp_path: Path, status: int
) -> None:
    ran = run_action(_runner(tmp_path, recording, RECORDED=str(tmp_path / "recorded"), STATUS=str(status)))
    assert _step(ran, "Judge").status == status
    upload = ran[-1]
    assert upload.name == "Results"
    assert Path(upload.given["path"]).is_dir()
    assert re.fullmatch(r"sam3-video-verify-gate-\w+", upload.given["name"])
    assert "Packages into the cache" not in [each.name for each in ran]


def test_two_uses_in_a_job_have_results_of_their_own(recording: Path, tmp_path: Path) -> None:
    runner = _runner(tmp_path, recording, RECORDED=str(tmp_path / "recorded"), STATUS="0")
    one, other = run_action(runner)[-1].given, run_action(runner)[-1].given
    assert one["name"] != other["name"]
    assert one["path"] != other["path"]


def test_options_that_cannot_be_split_are_said_and_nothing_is_run(recording: Path, tmp_path: Path) -> None:
    runner = _runner(tmp_path, recording, RECORDED=str(tmp_path / "recorded"), STATUS="0")
    judge = _step(run_action(runner, args="--seed 'x"), "Judge")
    assert judge.status == pytest.ExitCode.USAGE_ERROR
    (said,) = commands_in(judge.printed)
    assert said.message == "args: --seed 'x: No closing quotation: write it as for a shell"
    assert "Traceback" not in judge.printed
    assert not (tmp_path / "recorded").exists()


def test_the_cache_is_keyed_by_what_is_pinned(recording: Path, tmp_path: Path) -> None:
    action = tmp_path / "action"
    action.mkdir()
    keys = []
    for number, pinned in enumerate(("torch==1", "torch==1", "torch==2")):
        for name in ("action.yml", "pyproject.toml"):
            shutil.copy(ROOT / name, action)
        (action / "constraints.txt").write_text(pinned)
        folder = tmp_path / str(number)
        folder.mkdir()
        ran = run_action(_runner(folder, recording, action, RECORDED=str(folder / "recorded"), STATUS="0"))
        keys.append(_step(ran, "Packages from the cache").given["key"])
    assert keys[0] == keys[1] != keys[2]
    assert all(re.fullmatch(r"sam3-video-verify-Linux-X64-3\.\d+\.\d+-[0-9a-f]{64}", key) for key in keys)


# With the gate


@pytest.fixture(scope="module")
def action(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project where GitHub would put it: building leaves files behind."""
    folder = tmp_path_factory.mktemp("actions") / "sam3-video-verify"
    for name in ("verify", "fixtures", "reference"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "action.yml"):
        shutil.copy(ROOT / name, folder)
    if not _HAS_PAGE:
        inputs = folder / "verify" / "ci" / "inputs.py"
        inputs.write_text(inputs.read_text().replace('    "--html": "report.html",\n', ""))
    return folder


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as the cache would give it back: with all packages, which it shares with this one."""
    environment = tmp_path_factory.mktemp("cached") / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    for path in packages.iterdir():
        if path.name.startswith(("setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()  # the shared one is newer
    (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment


def _judged(tmp_path: Path, cached: Path, action: Path, bug: str) -> tuple[Runner, list[Ran]]:
    (tmp_path / "workspace").mkdir()
    write_plain(tmp_path / "workspace", sam3_image=bug)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    runner = _runner(tmp_path, cached, action, **offline)
    return runner, run_action(runner, only="test_coverage", args="--launcher threads")


def _results(ran: list[Ran]) -> Path:
    return Path(ran[-1].given["path"])


def test_a_fork_with_a_bug_fails_and_its_line_is_marked(tmp_path: Path, cached: Path, action: Path) -> None:
    runner, ran = _judged(tmp_path, cached, action, BUG)
    judge = _step(ran, "Judge")
    assert judge.status == pytest.ExitCode.TESTS_FAILED, [(each.name, each.printed) for each in ran]
    (mark,) = commands_in(judge.printed)
    assert mark.name == "error"
    marked = runner.workspace / mark.properties["file"]
    assert marked.read_text().splitlines()[int(mark.properties["line"]) - 1] == BUG.split("\n")[4]
    assert "not that frame's own detection" in mark.message
    report = json.loads((_results(ran) / "report.json").read_text())
    assert report["verdict"] == "violates"
    assert (_results(ran) / "junit.xml").exists()
    assert (_results(ran) / "report.html").exists() is _HAS_PAGE
    page = runner.summary.read_text()
    assert "violates" in page
    assert report["checks"][0]["finding"]["replay"] in page


def test_a_right_fork_passes(tmp_path: Path, cached: Path, action: Path) -> None:
    runner, ran = _judged(tmp_path, cached, action, "")
    assert [each.status for each in ran] == [0] * len(ran), [(each.name, each.printed) for each in ran]
    assert commands_in(_step(ran, "Judge").printed) == []
    assert json.loads((_results(ran) / "report.json").read_text())["verdict"] == "conforms"
    assert "conforms" in runner.summary.read_text()
