"""The gate's command line, as tests use it."""

from __future__ import annotations

import re

import pytest

from tests.commands import Done

GATE = ("pytest", "verify", "-p", "no:cacheprovider")
#: One quick check, where any would do.
QUICK = ("--only", "test_coverage", "--launcher", "threads")


def assert_short_error(done: Done, message: str) -> None:
    assert done.status == pytest.ExitCode.USAGE_ERROR, done.out + done.err
    assert len(done.errors) == 1, done.err
    assert re.search(message, done.errors[0]), done.errors[0]
    assert "Traceback" not in done.out + done.err
    assert "verification" not in done.out
