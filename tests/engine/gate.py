"""The gate's command line, as tests use it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest

from tests.commands import ROOT, Done, run

GATE = ("pytest", "verify", "-p", "no:cacheprovider")
#: One quick check, where any would do.
QUICK = ("--only", "test_coverage", "--launcher", "threads")


def judged_by(check: str, report: Path, *options: str) -> dict[str, Any]:
    """What the report says of one check, which the gate was asked for alone."""
    done = run(*GATE, *options, "--only", check, "--report", str(report), PYTHONPATH=str(ROOT))
    assert report.exists(), done.out + done.err
    (result,) = json.loads(report.read_text())["checks"]
    return cast(dict[str, Any], result)


def assert_short_error(done: Done, message: str) -> None:
    assert done.status == pytest.ExitCode.USAGE_ERROR, done.out + done.err
    assert len(done.errors) == 1, done.err
    assert re.search(message, done.errors[0]), done.errors[0]
    assert "Traceback" not in done.out + done.err
    assert "verification" not in done.out
