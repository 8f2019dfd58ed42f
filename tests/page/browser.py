"""A page in Chromium, without a head, by its command line alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

#: What Chromium is called, where it is installed.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr")
#: Opens a page in a frame of a width and measures it: a window is never as narrow as a phone.
_MEASURE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="f" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe><pre id="said"></pre><script>
onload = () => {{
  const view = document.getElementById("f").contentWindow, root = view.document.documentElement, over = [];
  for (const fold of view.document.querySelectorAll("details")) fold.open = true;
  for (const element of view.document.body.querySelectorAll("*")) {{
    if (element.closest(".scroll, pre.long")) continue;
    const box = element.getBoundingClientRect();
    if (box.right > view.innerWidth + 1 || box.left < -1) over.push(element.tagName + " " + element.className);
  }}
  const images = [...view.document.querySelectorAll("svg")].map(svg => [svg.getAttribute("role"),
    svg.getAttribute("aria-labelledby").split(" ").map(id => view.document.getElementById(id).textContent).join(": "),
    svg.getBoundingClientRect().width]);
  document.getElementById("said").textContent = JSON.stringify({{ width: view.innerWidth, scroll: root.scrollWidth,
    over, images, sections: view.document.querySelectorAll("section").length }});
}};
</script>"""


@dataclass(frozen=True)
class Opened:
    """A page that Chromium has opened."""

    #: What is in it, once it was loaded.
    content: str
    #: What was written to the console: errors, and requests that the page's policy has refused.
    console: tuple[str, ...]


def chromium() -> str:
    """The command that starts Chromium; where there is none, the test is skipped."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    return found


def opened(path: Path, width: int = 1280) -> Opened:
    profile = path.parent / f"profile-{path.stem}"
    command = [chromium(), *_OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom"]
    done = subprocess.run([*command, path.resolve().as_uri()], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return Opened(done.stdout, tuple(line for line in done.stderr.splitlines() if "CONSOLE" in line))


def measured(html: str, width: int, folder: Path) -> dict[str, Any]:
    """What a page of this width holds, all of it unfolded: its real and its scrollable width, what juts out, images."""
    page = folder / f"measured-{width}.html"
    page.write_text(_MEASURE.format(width=width, page=escape(html)), encoding="utf-8")
    said = re.search(r'<pre id="said">(.*?)</pre>', opened(page, max(width, 500)).content, re.S)
    assert said is not None
    assert said[1], "the page could not be measured"
    return json.loads(unescape(said[1]))
