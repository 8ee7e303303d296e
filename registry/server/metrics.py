"""What Prometheus gets to see: counts and times by model and tenant, and never a word of a prompt."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The server's own registry: nothing of the process's other libraries is in it.

    The labels are names of the document only, so that no client can make up new ones.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        by = ("model", "tenant")
        self.requests = Counter(
            "fusery_requests", "Requests by what became of them.", (*by, "outcome"), registry=registry
        )
        self.prompt_tokens = Counter("fusery_prompt_tokens", "Tokens read.", by, registry=registry)
        self.reused_tokens = Counter(
            "fusery_prompt_tokens_reused",
            "Tokens of prompts that had been read before.",
            by,
            registry=registry,
        )
        self.answer_tokens = Counter("fusery_answer_tokens", "Tokens written.", by, registry=registry)
        self.seconds = Histogram(
            "fusery_request_seconds", "Until the last token.", ("model",), buckets=_SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "fusery_first_token_seconds",
            "Until the first token.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.active = Gauge(
            "fusery_active_answers", "Answers in progress or waiting.", ("tenant",), registry=registry
        )
        self.adapters = Gauge("fusery_adapters", "Adapters in memory.", registry=registry)
        self.adapter_bytes = Gauge("fusery_adapter_bytes", "Bytes of their tensors.", registry=registry)
        self.reloads = Counter(
            "fusery_reloads",
            "Changes of the document that were followed or not.",
            ("outcome",),
            registry=registry,
        )
        self.refused = Counter(
            "fusery_refused", "Requests that got no answer, by HTTP status.", ("status",), registry=registry
        )
        self.key_changes = Counter(
            "fusery_key_changes",
            "Changes of the keys that were followed or not.",
            ("outcome",),
            registry=registry,
        )
        self._keys_usable = Gauge(
            "fusery_keys_usable", "1 if the keys are known, 0 if nobody is let in.", registry=registry
        )
        self._switches = Gauge(
            "fusery_adapter_switches",
            "How often another adapter was put on the base as a whole.",
            registry=registry,
        )

        self._prompts_kept = Gauge(
            "fusery_prompt_cache_entries", "Prompts kept for later ones.", registry=registry
        )
        self._prompt_bytes = Gauge("fusery_prompt_cache_bytes", "Bytes of what is kept.", registry=registry)

    def tell_prompt_cache(self, entries: Callable[[], int], nbytes: Callable[[], int]) -> None:
        """Ask for what is kept of prompts whenever the metrics are read."""
        self._prompts_kept.set_function(entries)
        self._prompt_bytes.set_function(nbytes)

    def count_switches(self, read: Callable[[], int]) -> None:
        """Ask for the number of switches whenever the metrics are read."""
        self._switches.set_function(read)

    def tell_keys(self, usable: Callable[[], bool]) -> None:
        """Ask whether the keys are known whenever the metrics are read."""
        self._keys_usable.set_function(usable)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)
