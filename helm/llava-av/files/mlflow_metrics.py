"""Answer Prometheus for MLflow, whose own /metrics only administrators see: `mlflow_metrics.py DIR PORT`.

DIR is where MLflow's processes count (`--expose-prometheus`).
"""

import os
import sys
import urllib.request
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

HEALTH = "http://127.0.0.1:5000/health"


class Health:
    """What the folder cannot say, as its files outlive a process: whether MLflow answers now."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Asks MLflow."""
        try:
            with urllib.request.urlopen(HEALTH, timeout=5) as answer:
                up = answer.status == 200
        except OSError:
            up = False
        yield GaugeMetricFamily("llava_av_mlflow_up", "Whether MLflow answers", value=float(up))


def main() -> None:
    """Answers until the process is ended."""
    folder, port = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)
    registry.register(Health())
    _, thread = start_http_server(int(port), registry=registry)
    thread.join()


if __name__ == "__main__":
    main()
