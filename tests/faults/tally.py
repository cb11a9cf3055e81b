"""What came back, counted; and what did not, by whose doing."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tests.faults.pictures import Kind
from tests.faults.plans import Road
from tests.faults.traffic import Outcome
from tests.faults.wire import Silence
from tests.faults.world import World

# Silences that are nobody's fault but the run's own.
LEFT = "client left"
AT_KILL = "in flight when the proxy was killed"
AT_STOP = "came while the proxy was down"
UPSTREAM_AWAY = "pict-rs away while it was read"

# Their answer is a stream of pict-rs': where that hangs or breaks off, so does the stream.
_STREAMED = {Road.LOOKUP, Road.FORGET, Road.READ, Road.ORIGINAL, Road.PROCESS, Road.BLURHASH}

# A connection may have been made before the listener closed, and not been accepted any more.
_ACCEPTED_SECONDS = 0.1


@dataclass
class Tally:
    """roads: by road, what became of its requests. answers: by status and code."""

    requests: int = 0
    roads: defaultdict[Road, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    silences: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)
    calm: defaultdict[Road, Counter[bool]] = field(default_factory=lambda: defaultdict(Counter))
    slowest: defaultdict[Road, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, world: World, outcome: Outcome) -> None:
        """One more request, at its end."""
        plan, reply, road = outcome.plan, outcome.reply, outcome.plan.road
        self.requests += 1
        self.cuts[plan.manner] += 1
        counts = self.roads[road]
        counts["sent"] += 1
        counts[plan.kind] += 1
        if reply.silence is not None:
            counts["silent"] += 1
            self._silent(world, outcome, reply.silence)
            return
        self.answers[reply.status, reply.code] += 1
        self.slowest[road] = max(self.slowest[road], reply.ended - reply.started)
        if outcome.succeeded:
            counts["ok"] += 1
            counts[f"{plan.kind} ok"] += 1
        is_fair = plan.is_fair and plan.kind is Kind.CLEAN
        if is_fair and not world.was_broken(reply.started, reply.ended):
            self.calm[road][outcome.succeeded] += 1
            if not outcome.succeeded:
                world.notes.append(f"{plan}: {reply.status} {reply.body[:100]!r}")

    def _silent(self, world: World, outcome: Outcome, silence: Silence) -> None:
        plan, reply = outcome.plan, outcome.reply
        begin, end = reply.started, reply.ended
        if plan.manner.leaves:
            self.silences[LEFT] += 1
        elif world.was_broken(begin, end, "proxy killed"):
            self.silences[AT_KILL] += 1
        elif world.came_at_stop(begin + _ACCEPTED_SECONDS) and silence is not Silence.TIME:
            self.silences[f"{AT_STOP}: {silence}"] += 1
        elif (
            plan.road in _STREAMED
            and silence in {Silence.TIME, Silence.BROKEN}
            and world.was_broken(begin, end, "pict-rs killed", "pict-rs paused")
        ):
            self.silences[UPSTREAM_AWAY] += 1
        else:
            self.silences["without a reason"] += 1
            stores = plan.kind is Kind.CLEAN and not plan.road.is_read
            check = "clean uploads without an answer" if stores else "other requests without one"
            seconds = end - begin
            world.found(check, f"{plan}: {silence}, {seconds:.2f} s, status {reply.status}")

    def calm_total(self) -> Counter[bool]:
        """Clean pictures where nothing was broken, by whether they got in."""
        return sum(self.calm.values(), Counter[bool]())
