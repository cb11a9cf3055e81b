"""Tests of safety_proxy/metrics.py: what is counted, and how it is shown."""

import re
from pathlib import Path

import prometheus_client as prometheus
import pytest

from safety_proxy.metrics import Metrics
from safety_proxy.verdict import Action, Source, Verdict

README = Path(__file__).resolve().parent.parent / "README.md"


def verdict_of(action: Action, source: Source = Source.POLICY) -> Verdict:
    return Verdict(action, (), "00", "model", "policy", source)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """What Prometheus would scrape."""
    return metrics.registry.get_sample_value(name, labels)


def test_verdicts_are_counted_by_action_and_source() -> None:
    """In both shapes."""
    metrics = Metrics()
    metrics.verdict(verdict_of(Action.BLOCK))
    metrics.verdict(verdict_of(Action.BLOCK, Source.BLOCK_LIST))
    metrics.verdict(verdict_of(Action.ALLOW))
    assert metrics.verdicts_by_action == {"block": 2, "allow": 1}
    assert metrics.verdicts_by_source == {"policy": 2, "block_list": 1}
    name = "safety_proxy_verdicts_total"
    assert value(metrics, name, action="block", source="policy") == 1
    assert value(metrics, name, action="block", source="block_list") == 1
    assert value(metrics, name, action="flag", source="policy") is None
    assert metrics.scans_by_action == {}


def test_scans_are_counted_apart_from_verdicts() -> None:
    """A known picture is judged and not scanned."""
    metrics = Metrics()
    metrics.scan(verdict_of(Action.FLAG))
    assert metrics.scans_by_action == {"flag": 1}
    assert metrics.verdicts_by_action == {}
    assert value(metrics, "safety_proxy_scans_total", action="flag") == 1


def test_failures_are_counted_by_reason() -> None:
    """A queue that is full is another thing than a model that fails."""
    metrics = Metrics()
    for reason in ("queue_full", "model", "queue_full"):
        metrics.failure(reason)
    assert metrics.failures == {"queue_full": 2, "model": 1}
    assert value(metrics, "safety_proxy_failures_total", reason="queue_full") == 2


def test_batches_are_counted_with_their_frames() -> None:
    """How many, how large in all, and the largest."""
    metrics = Metrics()
    for frames in (1, 7, 3):
        metrics.batch(frames)
    assert (metrics.batches, metrics.frames, metrics.largest_batch) == (3, 11, 7)
    assert value(metrics, "safety_proxy_batch_frames_count") == 3
    assert value(metrics, "safety_proxy_batch_frames_sum") == 11
    assert value(metrics, "safety_proxy_batch_frames_bucket", le="4.0") == 2


def test_a_stage_is_timed() -> None:
    """Each by itself, and only those that occurred are shown."""
    metrics = Metrics()
    for _ in range(3):
        with metrics.stage("decode"):
            pass
    with metrics.stage("embed"):
        pass
    latencies = metrics.latencies()
    assert {stage: latency.count for stage, latency in latencies.items()} == {
        "decode": 3,
        "embed": 1,
    }
    assert 0 <= latencies["decode"].p50 <= latencies["decode"].p99
    name = "safety_proxy_stage_duration_seconds_count"
    assert value(metrics, name, stage="decode") == 3
    assert value(metrics, name, stage="scan") is None


def test_a_stage_that_fails_is_timed_too() -> None:
    """The error goes on its way."""
    metrics = Metrics()
    with pytest.raises(ValueError, match="on purpose"), metrics.stage("scan"):
        raise ValueError("on purpose")
    assert metrics.latencies()["scan"].count == 1
    assert value(metrics, "safety_proxy_stage_duration_seconds_count", stage="scan") == 1


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([5.0], (5, 5, 5)),
        ([2.0, 1.0], (2, 2, 2)),
        ([*range(100, 0, -1)], (51, 91, 100)),
        ([*range(1, 1001)], (501, 901, 991)),
        ([9.0] * 500 + [1.0] * 1000, (1, 1, 1)),  # the latest 1000
    ],
)
def test_percentiles_are_those_of_the_latest_durations(
    seconds: list[float], expected: tuple[float, float, float]
) -> None:
    """In any order they came; the count is since start."""
    metrics = Metrics()
    for duration in seconds:
        metrics._recent["scan"].append(duration)
        metrics._counts["scan"] += 1
    latency = metrics.latencies()["scan"]
    assert (latency.p50, latency.p90, latency.p99) == expected
    assert latency.count == len(seconds)


def test_two_proxies_in_one_process_count_apart() -> None:
    """Neither names nor numbers meet."""
    one, other = Metrics(), Metrics()
    one.failure("model")
    one.batch(1)
    one.verdict(verdict_of(Action.ALLOW))
    assert other.failures == {}
    assert other.batches == 0
    assert value(other, "safety_proxy_failures_total", reason="model") is None
    assert value(other, "safety_proxy_batch_frames_count") == 0


def test_the_names_and_labels_of_the_readme_are_those_of_prometheus() -> None:
    """What an admin copies into an alert exists. (The admin listener adds the cache's.)"""
    metrics = Metrics()
    metrics.verdict(verdict_of(Action.ALLOW))
    metrics.scan(verdict_of(Action.ALLOW))
    metrics.failure("model")
    metrics.batch(1)
    with metrics.stage("scan"):
        pass
    text = prometheus.generate_latest(metrics.registry).decode()
    promised = re.findall(r"`(safety_proxy_[a-z_]+)\{([a-z_,]+)\}`", README.read_text())
    assert len(promised) >= 4
    for name, labels in promised:
        (first, *_) = re.findall(rf"^{name}(?:_count)?\{{(.*)\}}", text, re.MULTILINE)
        assert re.findall(r"([a-z_]+)=", first) == labels.split(",")
