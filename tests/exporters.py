"""Scraping of Prometheus exporters, and the known names of their metrics.

`tests/metrics/EXPORTER.txt` holds the names that a real exporter returned; alerts and the dashboard use only
these. With LLAVA_AV_UPDATE_GOLDEN=1, the tests that query exporters rewrite the files.
"""

import os
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

METRICS = Path(__file__).parent / "metrics"


def scraped(address: str) -> list[Sample]:
    """Return the samples at an address such as `http://127.0.0.1:9401/metrics`.

    Raises:
        OSError: nothing answers there, or it refuses.
    """
    with urllib.request.urlopen(address, timeout=30) as answer:
        return samples(answer.read().decode())


def samples(text: str) -> list[Sample]:
    """Parse the samples of an answer in Prometheus' text format."""
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def check_names(exporter: str, found: Iterable[Sample]) -> None:
    """Compare the names of a real answer with `tests/metrics/EXPORTER.txt`."""
    text = "".join(f"{name}\n" for name in sorted({sample.name for sample in found}))
    file = METRICS / f"{exporter}.txt"
    if os.environ.get("LLAVA_AV_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()
