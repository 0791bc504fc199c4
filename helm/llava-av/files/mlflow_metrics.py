"""Serve MLflow's metrics to Prometheus: `mlflow_metrics.py DIR PORT`.

MLflow's own /metrics endpoint requires an administrator. DIR is the folder in which MLflow's processes keep
their counters (`--expose-prometheus`).
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
    """Collector of MLflow's current health, which the folder cannot show: its files outlive a process."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Query MLflow's health endpoint."""
        try:
            with urllib.request.urlopen(HEALTH, timeout=5) as answer:
                up = answer.status == 200
        except OSError:
            up = False
        yield GaugeMetricFamily("llava_av_mlflow_up", "1 if MLflow answers, else 0", value=float(up))


def main() -> None:
    """Serve metrics until the process is stopped."""
    folder, port = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)
    registry.register(Health())
    _, thread = start_http_server(int(port), registry=registry)
    thread.join()


if __name__ == "__main__":
    main()
