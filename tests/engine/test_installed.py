"""The gate as it is installed from its wheel: a command that works from any folder, and is led astray by none."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.commands import ROOT, SECONDS
from tests.engine.gate import QUICK
from tests.page.reports import report

pytestmark = pytest.mark.xdist_group("installed")
#: What the gate's own packages, and those of its tests, are called.
NAMES = ("verify", "fixtures", "reference", "tests")
TRAP = "raise SystemExit('what lies in the folder is imported: ' + __file__)\n"
SETTINGS = "addopts = -p no_such_plugin --no-such-option\nrequired_plugins = no-such-plugin\n"
#: A wrong buffer in a module beside the traps.
MODULE = """
from sam3.model.sam3_image import Sam3ImageOnVideoMultiGPU


class Wrong(Sam3ImageOnVideoMultiGPU):
    def forward_video_grounding_multigpu(self, *args, **kwargs):
        answer, other = super().forward_video_grounding_multigpu(*args, **kwargs)
        return {**answer, "pred_logits": answer["pred_logits"] + 1}, other
"""


def _build(folder: Path) -> Path:
    """Build the wheel of what is here from a copy: building leaves files behind."""
    source = folder / "source"
    for name in ("verify", "fixtures", "reference"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment that the wheel is installed in; it shares all else with this one."""
    folder = tmp_path_factory.mktemp("installed")
    wheel, environment = _build(folder), folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    subprocess.run([python, *install, wheel], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    # A path alone: what is installed for editing here is found by a file that is not read there.
    (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    shared = packages / "broken.dist-info"
    shared.mkdir()
    (shared / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (shared / "entry_points.txt").write_text("[pytest11]\nbroken = broken_plugin\n")
    (packages / "broken_plugin.py").write_text(TRAP)
    return python.parent


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """A checkout of sam3 that has everything which could be taken for the gate's own, and settings of its own."""
    import sam3

    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(TRAP)
        (tmp_path / name / "conftest.py").write_text(TRAP)
    for name in ("conftest.py", "torch.py", "types.py", "sitecustomize.py", "pytest_timeout.py"):
        (tmp_path / name).write_text(TRAP)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{SETTINGS}")
    (tmp_path / "setup.cfg").write_text(f"[tool:pytest]\n{SETTINGS}")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--no-such-option'\n")
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "sam3").symlink_to(Path(sam3.__file__).parent)
    return tmp_path


def _run(commands: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTEST_ADDOPTS": "--no-such-option", "PYTEST_PLUGINS": "no_such_plugin"}
    environment.pop("PYTEST_DISABLE_PLUGIN_AUTOLOAD", None)
    command = [commands / "sam3-video-verify", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_nothing_of_the_folder_is_imported_or_obeyed(installed: Path, trapped: Path) -> None:
    done = _run(installed, trapped, "--target", "sam3", *QUICK, "--report", "report.json")
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    assert json.loads((trapped / "report.json").read_text())["verdict"] == "conforms"
    assert f"rootdir: {installed.parent}" in done.stdout
    left = {path.name for path in trapped.iterdir()}
    assert not left & {"__pycache__", ".pytest_cache", ".hypothesis"}, left


def test_a_checkout_goes_before_the_installed_sam3_and_its_other_modules_after_all(
    installed: Path, trapped: Path
) -> None:
    only = ("--only", "test_coverage", "--world-sizes", "2")
    done = _run(installed, trapped, "--target", "./", *only, "--report", "report.json")
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    written = json.loads((trapped / "report.json").read_text())
    assert written["target"]["sam3"]["folder"].startswith(str(trapped))
    assert {check["outcome"] for check in written["checks"]} == {"passed"}


def test_a_module_of_the_folder_is_a_target_of_workers_and_runs_again_by_the_same_command(
    installed: Path, trapped: Path
) -> None:
    done = _run(installed, trapped, "--target", "mine:Wrong", *QUICK, "-n", "1")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "test_coverage: the answer for frame 0 is not that frame's own" in done.stdout
    assert "  replay    sam3-video-verify --target mine:Wrong --only test_coverage --launcher threads" in done.stdout


def test_the_command_and_pytest_run_the_same_way() -> None:
    own = configparser.ConfigParser(interpolation=None)
    own.read(ROOT / "verify" / "command.ini")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert own["pytest"]["filterwarnings"].split("\n")[1:] == project["filterwarnings"]
    assert own["pytest"]["timeout"] == str(project["timeout"])
    assert set(own["pytest"]["addopts"].split()) <= set(project["addopts"].split())


def test_a_page_is_made_from_any_folder(installed: Path, trapped: Path) -> None:
    (trapped / "report.json").write_text(json.dumps(report()))
    for name in ("jinja2.py", "matplotlib.py", "json.py"):
        (trapped / name).write_text(TRAP)
    (trapped / "matplotlibrc").write_text("svg.fonttype: path\n")
    done = _run(installed, trapped, "--html", "page.html", "--from", "report.json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "page.html\n", "")
    assert "<svg" in (trapped / "page.html").read_text(encoding="utf-8")
    assert "<text" in (trapped / "page.html").read_text(encoding="utf-8")
