"""Prometheus metrics: counts and times by model and tenant, and never a word of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The server's own metrics, without those of other libraries in the process.

    The labels are names of the document only, so that no client can make up new ones.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        times = partial(Histogram, labelnames=("model",), buckets=_SECONDS, registry=registry)
        by = ("model", "tenant")
        self.requests = counter("fusery_requests", "Requests by what became of them.", (*by, "outcome"))
        self.prompt_tokens = counter("fusery_prompt_tokens", "Tokens read.", by)
        self.reused_tokens = counter(
            "fusery_prompt_tokens_reused", "Tokens of prompts that had been read before.", by
        )
        self.answer_tokens = counter("fusery_answer_tokens", "Tokens written.", by)
        self.seconds = times("fusery_request_seconds", "Until the last token.")
        self.first_token = times("fusery_first_token_seconds", "Until the first token.")
        self.active = gauge("fusery_active_answers", "Answers in progress or waiting.", ("tenant",))
        self.adapters = gauge("fusery_adapters", "Adapters in memory.")
        self.adapter_bytes = gauge("fusery_adapter_bytes", "Bytes of their tensors.")
        self.reloads = counter(
            "fusery_reloads", "Changes of the document that were followed or not.", ("outcome",)
        )
        self.refused = counter("fusery_refused", "Requests that got no answer, by HTTP status.", ("status",))
        self.key_changes = counter(
            "fusery_key_changes", "Changes of the keys that were followed or not.", ("outcome",)
        )

    def read(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is asked for whenever the metrics are read."""
        Gauge(name, about, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
