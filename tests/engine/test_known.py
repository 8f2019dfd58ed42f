"""Files of known failures: what is read, what is refused, and that entries are strict."""

from __future__ import annotations

from pathlib import Path

import pytest

from verify.engine.known import KnownError, read
from verify.groups import registered
from verify.request import KNOWN, known_of_release
from verify.video.scan import Scan

CHECKS = registered()
GOOD = """
[[known]]
check = "test_coverage"
reason = "frames are shuffled"
condition = { world_size = [2, 4], reverse = true }
match = "frame .* own"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "known.toml"
    path.write_text(text)
    return path


def test_reads_entries(tmp_path: Path) -> None:
    (entry,) = read(written(tmp_path, GOOD), CHECKS).entries
    assert entry.covers(Scan(3, 2, reverse=True, start=2), "threads")
    assert not entry.covers(Scan(3, 2), "threads")
    assert not entry.covers(Scan(3, 3, reverse=True, start=2), "threads")
    assert entry.explains("frame 3 is not its own")
    assert not entry.explains("something else")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[known]", "not TOML"),
        ("[[unknown]]\n", "unknown key 'unknown'"),
        ("known = 3\n", r"expected \[\[known\]\] entries"),
        ("[[known]]\ncheck = 'test_coverage'\n", "entry 1: needs a reason"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = ' '\n", "entry 1: needs a reason"),
        ("[[known]]\nreason = 'x'\n", "entry 1: needs a check"),
        ("[[known]]\ncheck = 'test_gone'\nreason = 'x'\n", "there is no check 'test_gone'"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\nwhy = 'y'\n", "unknown key 'why'"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\nmatch = '('\n", "not a regular expression"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\nmatch = 3\n", "match is not a string"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\ncondition = 'x'\n", "condition is not a table"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\ncondition = { speed = 1 }\n", "speak of 'speed'"),
        (2 * "[[known]]\ncheck = 'test_coverage'\nreason = 'x'\n", "entry 2: test_coverage is listed twice"),
    ],
)
def test_refuses(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(KnownError, match=message) as caught:
        read(written(tmp_path, text), CHECKS)
    assert "known.toml" in str(caught.value)


def test_a_changed_file_is_not_the_release() -> None:
    file = read(KNOWN / "sam3-0.1.4.toml", CHECKS)
    assert file.version is not None
    assert file.sha256 is not None
    assert known_of_release((file.version, file.sha256), CHECKS) == file
    assert known_of_release((file.version, "0" * 64), CHECKS) is None
    assert known_of_release(("9.9.9", file.sha256), CHECKS) is None
    assert known_of_release(None, CHECKS) is None
