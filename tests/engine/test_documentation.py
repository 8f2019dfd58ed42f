"""The documentation is true to the code: what is made of docstrings is current, what is quoted or linked is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import checks

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
#: Says what has been, and so names files that are no longer there.
HISTORY = ROOT / "CHANGELOG.md"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_PATH = re.compile(r"(?<![\w./-])(?:verify|fixtures|reference|tests|benchmarks|docs)/[\w./-]*\w")
_MODULE = re.compile(r"(?<![\w./-])(?:verify|fixtures|reference|benchmarks)(?:\.[a-z_]\w*)+(?::\w+)?")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=_name)


def _prose(page: Path) -> str:
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def _anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by, as GitHub makes it of them, and the anchors that it sets itself."""
    headings = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(_prose(page)))
    set_here = re.findall(r'<a id="([\w-]+)">', page.read_text(encoding="utf-8"))
    return {*(heading.strip().replace(" ", "-") for heading in headings), *set_here}


def _is_module(dotted: str) -> bool:
    """Whether a dotted name is a module, or something that a module holds."""
    path = ROOT.joinpath(*re.split("[.:]", dotted))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    file = path.parent.with_suffix(".py") if path.parent.with_suffix(".py").is_file() else path.parent / "__init__.py"
    return file.is_file() and re.search(rf"\b{path.name}\b", file.read_text(encoding="utf-8")) is not None


def _quotations(page: Path) -> Iterator[tuple[str, str]]:
    """Each block of Python that begins with a file's name: the name, and what is quoted from the file."""
    for language, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        first, _, quoted = block.partition("\n")
        if language == "python" and first.startswith("# "):
            yield first.removeprefix("# "), quoted


def test_the_list_of_checks_is_current() -> None:
    assert checks.PAGE.read_text(encoding="utf-8") == checks.page(), "run: python -m docs.checks"


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{_name(page)} links to {link}: there is no {file}"
        if anchor:
            assert anchor in _anchors(path), f"{_name(page)} links to {link}: {path.name} has no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=_name)
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in _PATH.findall(text):
        assert (ROOT / path).exists(), f"{_name(page)} names {path}, which is not there"
    for dotted in _MODULE.findall(text):
        assert _is_module(dotted), f"{_name(page)} names {dotted}, which is not there"


@every_page
def test_code_is_quoted_as_it_is(page: Path) -> None:
    for file, quoted in _quotations(page):
        code = (ROOT / file).read_text(encoding="utf-8")
        assert quoted in code, f"{_name(page)} quotes {file} otherwise than it is:\n{quoted}"
