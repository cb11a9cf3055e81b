"""How long listed pictures take: a million PDQ hashes searched, lists loaded, pictures hashed.

    python -m benchmarks.lists [--count 1000000] [--repeats 50]

Beside the index of the package, the other ways: comparing all hashes in their order, as it does for
short lists, and a plain numpy expression. Times are processor time of one thread, so that other
programs on the machine hardly count; a search or hash is the median of repeats.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safety_proxy.media.pdq import pdq_of, turned_pdqs
from safety_proxy.store import pdq
from safety_proxy.store.entries import Kind
from safety_proxy.store.hashlist import HashLists
from safety_proxy.store.listfiles import read_hashes
from safety_proxy.store.pdq import HASH_BYTES, MAX_DISTANCE, PdqIndex

Line = tuple[str, str]
Q = TypeVar("Q")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="hashes in the list")
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    random = np.random.default_rng(7)
    hashes = random.integers(0, 256, (arguments.count, HASH_BYTES), dtype=np.uint8)
    for measure in (searches, loads, pictures):
        for name, value in measure(hashes, random, arguments.repeats):
            print(f"{name:<58} {value:>16}", flush=True)


def searches(
    hashes: NDArray[np.uint8], random: np.random.Generator, repeats: int
) -> Iterator[Line]:
    """The same queries in each way: half of them near to a listed hash, at distance 31."""
    before = memory_mib()
    start = time.thread_time()
    index = PdqIndex(hashes)
    yield "index: build", f"{time.thread_time() - start:.2f} s"
    yield "index: memory", f"{memory_mib() - before:.0f} MiB"
    near = [turned_over(hashes[row], random) for row in range(repeats)]
    queries = [*near, *(random.bytes(HASH_BYTES) for _ in range(repeats))]
    found = [index.search(query) for query in queries]
    yield "index: search", each(index.search, queries)
    index._table = None  # noqa: SLF001 -- the way that short lists take
    assert [index.search(query) for query in queries] == found
    assert sum(map(len, found)) >= repeats
    yield "all compared, in chunks", each(index.search, queries)
    words = hashes.view(np.uint64)

    def plainly(query: bytes) -> NDArray[np.intp]:
        bits = np.bitwise_count(words ^ np.frombuffer(query, np.uint64)).sum(axis=1)
        return np.flatnonzero(bits <= MAX_DISTANCE)

    yield "all compared, by one numpy expression", each(plainly, queries)
    short = PdqIndex(hashes[: pdq._CHUNK])  # noqa: SLF001
    yield f"list of {len(short):,}, without a table", each(short.search, queries)


def loads(hashes: NDArray[np.uint8], random: np.random.Generator, repeats: int) -> Iterator[Line]:
    """A text file of sha256, and the look-up that every request makes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "list.txt"
        file.write_text("\n".join(row.tobytes().hex() for row in hashes))
        before = memory_mib()
        start = time.thread_time()
        read = read_hashes(file, Kind.SHA256)
        seconds = time.thread_time() - start
        yield f"text of {len(read.exact):,} sha256: load", f"{seconds:.1f} s"
        yield "text: memory", f"{memory_mib() - before:.0f} MiB"
    lists = HashLists()
    digests = [random.bytes(32).hex() for _ in range(1000)]
    start = time.thread_time()
    for digest in digests:
        lists.match_exact(digest)
    yield "match_exact", f"{(time.thread_time() - start) * 1e6 / len(digests):.2f} us"
    del repeats


def pictures(
    hashes: NDArray[np.uint8], random: np.random.Generator, repeats: int
) -> Iterator[Line]:
    """From a decoded picture to its hash, and to those of its eight turned copies."""
    del hashes
    for width, height in ((256, 256), (1600, 1200), (4000, 3000)):
        blots = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        image = blots.resize((width, height))
        name = f"{width} x {height}"
        yield f"{name}: hash", each(pdq_of, [image] * min(repeats, 20))
        yield f"{name}: hashes of all eight turns", each(turned_pdqs, [image] * min(repeats, 10))


def each(function: Callable[[Q], object], queries: Sequence[Q]) -> str:
    """The median processor time of a call."""
    seconds = []
    for query in queries:
        start = time.thread_time()
        function(query)
        seconds.append(time.thread_time() - start)
    return f"{median(seconds) * 1000:.3f} ms"


def turned_over(row: NDArray[np.uint8], random: np.random.Generator) -> bytes:
    """The hash with as many bits changed as still count as a match."""
    value = int.from_bytes(row.tobytes())
    for place in random.choice(256, MAX_DISTANCE, replace=False):
        value ^= 1 << int(place)
    return value.to_bytes(HASH_BYTES)


def memory_mib() -> float:
    """Resident, of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
