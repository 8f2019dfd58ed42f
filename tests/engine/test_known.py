"""Files of known failures: what is read, what is refused, and that entries are strict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sam3.model.sam3_image import Sam3ImageOnVideoMultiGPU

from verify.engine.known import KnownError, read
from verify.groups import registered
from verify.request import changed_failures, known_failures, upstream_failures
from verify.target.fingerprint import fingerprint, has_code
from verify.target.naming import Target
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
        ("[[known]]\ncheck = 'test_coverage'\n", r"entry 1 \(line 1\): needs a reason: say why test_coverage fails"),
        (
            "[[known]]\ncheck = 'test_coverage'\nreason = ' '\n",
            r"entry 1 \(line 1\): needs a reason: say why test_coverage fails",
        ),
        ("[[known]]\nreason = 'x'\n", r"entry 1 \(line 1\): needs a check"),
        ("[[known]]\ncheck = 'test_gone'\nreason = 'x'\n", "there is no check 'test_gone'"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\nwhy = 'y'\n", "unknown key 'why'"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\nmatch = '('\n", "not a regular expression"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\nmatch = 3\n", "match is not a string"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\navoidable = 3\n", "avoidable is neither true nor false"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\ncondition = 'x'\n", "condition is not a table"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\ncondition = { speed = 1 }\n", "speak of 'speed'"),
        (
            2 * "[[known]]\ncheck = 'test_coverage'\nreason = 'x'\n",
            r"entry 2 \(line 4\): test_coverage is listed twice",
        ),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\ncode = 'A'\n", r"there is no table \[code.A\]"),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\nmethods = ['a']\n", "methods without code"),
        (
            "[code.A]\na = '0'\n[[known]]\ncheck = 'test_coverage'\nreason = 'x'\ncode = 'A'\nmethods = ['b']\n",
            r"methods is not a list of names in \[code.A\]",
        ),
        ("[[known]]\ncheck = 'test_coverage'\nreason = 'x'\nsubject = 3\n", "subject is not a string"),
        ("release = 'x'\n", r"one \[release\] table"),
    ],
)
def test_refuses(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(KnownError, match=message) as caught:
        read(written(tmp_path, text), CHECKS)
    assert "known.toml" in str(caught.value)


def test_a_fingerprint_tells_code_and_not_its_looks() -> None:
    def one(number: int) -> int:
        """Says something."""
        # and something else
        return number + 1

    first = fingerprint(one)

    def one(number: int) -> int:  # type: ignore[no-redef]
        return (number
                + 1)  # fmt: skip

    assert fingerprint(one) == first

    def one(number):  # type: ignore[no-redef, no-untyped-def]
        return number + 1

    assert fingerprint(one) == first

    def one(number: int) -> int:  # type: ignore[no-redef]
        return number + 2

    assert fingerprint(one) != first
    assert fingerprint(len) is None


def test_upstreams_files_can_be_read_and_name_each_a_release() -> None:
    files = upstream_failures()
    assert {file.release for file in files} == {"sam3 0.1.4", "SAM 3.1"}
    for entry in (entry for file in files for entry in file.entries):
        assert entry.methods, f"{entry.check} would be inherited by everybody"
        assert entry.match, f"{entry.check} would explain any failure"


def test_defects_of_a_release_are_inherited_by_whose_code_is_the_releases() -> None:
    inherited = known_failures(Target("sam3"), ())
    assert "test_features_on_request" in {entry.check for entry in inherited}
    assert {entry.release for entry in inherited} == {"sam3 0.1.4"}
    assert {entry.check for entry in known_failures(Target("posted"), ())} == {entry.check for entry in inherited}


def test_who_has_changed_the_code_inherits_nothing() -> None:
    assert known_failures(Target("reference"), ()) == ()
    assert known_failures(Target("fixtures.forks.buffer:SteppedBuffer"), ()) == ()
    assert not has_code(Target("sam3"), {"forward_video_grounding_multigpu": "0"})
    assert not has_code(Target("sam3"), {"no_such_method": "0"})


class BuildsOtherwise(Sam3ImageOnVideoMultiGPU):
    def _build_multigpu_buffer_next_chunk(self, *args: Any, **kwargs: Any) -> Any:
        return super()._build_multigpu_buffer_next_chunk(*args, **kwargs)


def test_who_has_changed_part_of_the_code_is_told_which() -> None:
    changed = changed_failures(Target(f"{__name__}:BuildsOtherwise"))
    (entry,) = (entry for entry in changed if entry.check == "test_features_on_request")
    assert list(entry.methods) == ["_build_multigpu_buffer_next_chunk"]
    assert changed_failures(Target("sam3")) == ()


def test_an_entry_of_its_own_goes_before_what_a_target_inherits(tmp_path: Path) -> None:
    text = "[[known]]\ncheck = 'test_features_on_request'\nreason = 'ours'\n"
    entries = known_failures(Target("sam3"), read(written(tmp_path, text), CHECKS).entries)
    assert [entry.reason for entry in entries if entry.check == "test_features_on_request"] == ["ours"]


def test_an_entry_on_another_subject_does_not_apply(tmp_path: Path) -> None:
    text = "[[known]]\ncheck = 'test_coverage'\nreason = 'ours'\nsubject = 'batched'\n"
    own = read(written(tmp_path, text), CHECKS).entries
    assert "test_coverage" not in {entry.check for entry in known_failures(Target("sam3"), own)}
