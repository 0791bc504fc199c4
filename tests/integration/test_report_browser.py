"""Report and index page in a browser: layout on a phone and on a laptop, players, and copied commands."""

from pathlib import Path

import pytest

from llava_av.report import write_report
from llava_av.report.run_index.index_page import write_index
from tests import index_sample, report_sample
from tests.browser import Tab, chromium, needs_browser, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300), needs_browser]

FITS = "document.documentElement.scrollWidth <= innerWidth"


def test_pages_fit_screens_and_their_controls_work(tmp_path: Path) -> None:
    report, index = tmp_path / "report.html", tmp_path / "index.html"
    write_report(report, report_sample.inputs(report_sample.make_clips(tmp_path / "clips")))
    write_index(index, index_sample.inputs(12))
    with chromium(tmp_path / "profile") as debugged:
        tab = Tab(debugged)
        _resize(tab, 390)
        tab.open(report.as_uri())
        assert tab.value(FITS)
        outcome = "document.querySelector('#expected .mark').getBoundingClientRect().right <= innerWidth"
        assert tab.value(outcome)
        _resize(tab, 1400)
        tab.open(report.as_uri())
        # The picture ends above the controls, which are in the last 70 pixels of the box.
        below = "(v => v.clientHeight - v.clientWidth * v.videoHeight / v.videoWidth)"
        wait_until(
            lambda: tab.value(f"{below}(document.querySelector('.clip video'))") >= 70,
            lambda: "the controls cover the picture",
        )
        tab.value("document.querySelector('button.copy').click()")
        copied = "document.querySelector('button.copy').textContent"
        wait_until(lambda: tab.value(copied) in ("Copied", "Selected"), lambda: tab.value(copied))
        tab.open(index.as_uri())
        assert tab.value(FITS)
        table = "document.getElementById('runs-table')"
        assert tab.value(f"{table}.scrollWidth <= {table}.parentElement.clientWidth")


def _resize(tab: Tab, width: int) -> None:
    tab.command(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=844,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
