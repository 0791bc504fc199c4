"""Metrics of the server for Prometheus."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from llava_av.media.clip import Clip
from llava_av.serving.current_model import CurrentModel

__all__ = ["ServingMetrics"]

_PREFIX = "llava_av_serving_"
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_RATES = (1, 3, 10, 30, 100, 300, 1_000)


class ServingMetrics:
    """Requests, times, tokens, queue and media of the server.

    Args:
        current: Model that answers, whose engine knows queue and batch.
    """

    def __init__(self, current: CurrentModel) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Load(current))
        self._requests = self._counter("requests", "Answered requests", "status")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts")
        self._tokens = self._counter("generated_tokens", "Tokens of replies")
        self._media = self._counter("media_seconds", "Seconds of media that requests sent", "modality")
        self._fetches = self._counter("fetches", "Media files that requests named by URL", "result")
        for result in ("ok", "failed"):
            self._fetches.labels(result)
        self._fetched_bytes = self._counter("fetched_bytes", "Bytes of these files")
        self._first = self._histogram(
            "time_to_first_token_seconds", "Time from a request to the first text of its reply", _SECONDS
        )
        self._request = self._histogram("request_seconds", "Time from a request to its end", _SECONDS)
        self._rate = self._histogram("reply_tokens_per_second", "Tokens per second of a whole reply", _RATES)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"{_PREFIX}{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{_PREFIX}{name}", about, buckets=buckets, registry=self.registry)

    def answered(self, status: int, seconds: float) -> None:
        """Count a request that was answered with a status after so many seconds."""
        self._requests.labels(str(status)).inc()
        self._request.observe(seconds)

    def decoded(self, clip: Clip, sample_rate_hz: int) -> None:
        """Count the media of a request; of audio, the part that the model reads."""
        audios = [*clip.audios, *(video.audio for video in clip.videos if video.audio is not None)]
        # frames are at the centres of equal intervals
        times_s = [video.frame_times_s for video in clip.videos if video.frame_times_s]
        self._media.labels("audio").inc(sum(map(len, audios)) / sample_rate_hz)
        self._media.labels("video").inc(sum(times[0] + times[-1] for times in times_s))

    def fetched(self, files: int, size: int) -> None:
        """Count the files of a request that were fetched, and their bytes."""
        self._fetches.labels("ok").inc(files)
        self._fetched_bytes.inc(size)

    def fetch_failed(self) -> None:
        """Count a file that could not be fetched."""
        self._fetches.labels("failed").inc()

    def first_text(self, seconds: float) -> None:
        """Record the time from a request to the first text of its reply."""
        self._first.observe(seconds)

    def replied(self, prompt_tokens: int, completion_tokens: int, seconds: float) -> None:
        """Count the tokens of a reply that took so many seconds, from its prompt to its end."""
        self._prompt_tokens.inc(prompt_tokens)
        self._tokens.inc(completion_tokens)
        self._rate.observe(completion_tokens / max(seconds, 1e-9))


class _Load(Collector):
    """Queue and batch at the time of the scrape, and the version that answers."""

    def __init__(self, current: CurrentModel) -> None:
        self._current = current

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        model = self._current.model
        waiting, running = model.engine.load()
        yield GaugeMetricFamily(f"{_PREFIX}queue", "Requests that wait for the batch", value=waiting)
        yield GaugeMetricFamily(f"{_PREFIX}batch_size", "Requests in the batch", value=running)
        identity = model.identity
        labels = {"name": identity.name, "version": identity.version or "", "digest": identity.digest}
        version = GaugeMetricFamily(f"{_PREFIX}model", "The model that answers", labels=list(labels))
        version.add_metric(list(labels.values()), 1)
        yield version
