"""What Prometheus would read of a server, and the names that are known to be there.

`tests/metrics/EXPORTER.txt` holds the names that a real exporter answered with: alerts and the dashboard use
these alone. With LLAVA_AV_UPDATE_GOLDEN=1 the tests that ask exporters write the files anew.
"""

import os
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

METRICS = Path(__file__).parent / "metrics"


def scraped(address: str) -> list[Sample]:
    """The samples at an address such as `http://127.0.0.1:9401/metrics`.

    Raises:
        OSError: nothing answers there, or it refuses.
    """
    with urllib.request.urlopen(address, timeout=30) as answer:
        return samples(answer.read().decode())


def samples(text: str) -> list[Sample]:
    """The samples of an answer in Prometheus' text format."""
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def check_names(exporter: str, found: Iterable[Sample]) -> None:
    """Compares the names of a real answer with `tests/metrics/EXPORTER.txt`."""
    text = "".join(f"{name}\n" for name in sorted({sample.name for sample in found}))
    file = METRICS / f"{exporter}.txt"
    if os.environ.get("LLAVA_AV_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()
