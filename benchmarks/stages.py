"""Where the time of a request went: the proxy's own stage counters, before and after."""

from collections.abc import Mapping

from benchmarks.servers import Totals

# Mean seconds of each stage for one request.
StageMeans = dict[str, float]


def stages_of(before: Mapping[str, Totals], after: Mapping[str, Totals]) -> StageMeans:
    """The means of what came between the two, over the stages that occurred."""
    means: StageMeans = {}
    for stage, totals in after.items():
        start = before.get(stage, Totals())
        if totals.count > start.count:
            means[stage] = (totals.seconds - start.seconds) / (totals.count - start.count)
    return means
