"""Writing a report to where it was asked for: as JSON, and as a page."""

from __future__ import annotations

from pathlib import Path

from verify.engine import report as reports
from verify.page.files import NoPage, write_page_of


def write_files(report: reports.Report, as_json: Path | None, as_page: Path | None) -> str:
    """Write a report to the files that are given; gives what went wrong with the page in a sentence, or "".

    The JSON comes first, and whatever a page may die of, the verdict has been come to.
    """
    if as_json is not None:
        reports.write(report, as_json)
    if as_page is None:
        return ""
    try:
        write_page_of(report.as_json(), as_page)
    except NoPage as error:
        return str(error)
    return ""
