"""Tests of safety_proxy/store/pdq.py: exactly what a comparison with all of them finds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from safety_proxy.store import pdq as module
from safety_proxy.store.pdq import HASH_BYTES, Near, PdqIndex

Hashes = NDArray[np.uint8]

# Of the reference's pdq/data/reg-test-input/short256.dat, and hash256_test.py.
SHORT = [
    "2b9c22a4d7d2244ce402fcc9dbe8e643356ac12184af5d6c7f19aec7c422ce38",
    "2b9c22a4d8d2244ce402fcc9dbe8e643356ac12184af5d6c7f19aec7c422ce38",
    "f01a16252f5906ed468061d06ec37ba206c87c19282f66e29514bd305d8f4bbd",
    "f01a16252f5906ed468061d06ec37ba206c87c19282f66e29514bd305d8f4bcd",
    "0" * 64,
    "f" * 64,
]


def many(count: int, seed: int = 0) -> Hashes:
    return np.random.default_rng(seed).integers(0, 256, (count, HASH_BYTES), dtype=np.uint8)


def changed(bits: bytes, count: int, random: np.random.Generator) -> bytes:
    """The hash with so many bits, chosen at random, turned over."""
    value = int.from_bytes(bits)
    for place in random.choice(256, count, replace=False):
        value ^= 1 << int(place)
    return value.to_bytes(HASH_BYTES)


def by_comparison(hashes: Hashes, query: bytes, distance: int) -> list[Near]:
    """All of them, one after another, in plain Python."""
    value = int.from_bytes(query)
    found = [
        Near(row, (int.from_bytes(bits.tobytes()) ^ value).bit_count())
        for row, bits in enumerate(hashes)
    ]
    return sorted(
        (near for near in found if near.distance <= distance),
        key=lambda near: (near.distance, near.row),
    )


def test_the_reference_s_distances() -> None:
    """4 between the first two, 3 between the next; its tests print these."""
    index = PdqIndex.of(map(bytes.fromhex, SHORT))
    assert index.search(bytes.fromhex(SHORT[0])) == [Near(0, 0), Near(1, 4)]
    assert index.search(bytes.fromhex(SHORT[3])) == [Near(3, 0), Near(2, 3)]
    assert index.search(bytes(32)) == [Near(4, 0)]
    assert index.search(b"\xff" * 32) == [Near(5, 0)]


@pytest.fixture(params=[1 << 15, 1 << 4], ids=["compared", "table"])
def hashes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Hashes:
    """2,000 hashes, of which an index has a table or not; some stand there twice."""
    monkeypatch.setattr(module, "_CHUNK", request.param)
    some = many(2000)
    some[1500:1510] = some[100:110]
    return some


@pytest.mark.parametrize("distance", [0, 1, 15, 16, 30, 31])
def test_what_is_found_is_what_is_near(hashes: Hashes, distance: int) -> None:
    """From every distance around that asked for; the copies of a hash as well."""
    index = PdqIndex(hashes)
    random = np.random.default_rng(distance)
    found = 0
    for row in (0, 100, 109, 1999):
        for bits in range(33):
            query = changed(hashes[row].tobytes(), bits, random)
            expected = by_comparison(hashes, query, distance)
            assert index.search(query, distance) == expected
            found += len(expected)
    assert found >= 4 * (distance + 1)


def test_the_worst_spread_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bits in each of fifteen parts and one in the sixteenth: 31, and no part is the same."""
    monkeypatch.setattr(module, "_CHUNK", 16)
    hashes = many(1000)
    index = PdqIndex(hashes)
    parts = np.frombuffer(hashes[5].tobytes(), np.uint16).copy()
    parts ^= 0b11
    for alone in range(16):
        query = parts.copy()
        query[alone] ^= 0b10
        assert index.search(query.tobytes()) == [Near(5, 31)]
        query[alone] ^= 0b10
        assert index.search(query.tobytes()) == []  # 32


def test_many_alike_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table then gives up in favor of a comparison, and nothing is lost."""
    monkeypatch.setattr(module, "_CHUNK", 64)
    random = np.random.default_rng(3)
    one = many(1)[0].tobytes()
    alike = [changed(one, int(bits), random) for bits in random.integers(0, 40, 500)]
    hashes = np.frombuffer(b"".join(alike), np.uint8).reshape(-1, HASH_BYTES)
    index = PdqIndex(hashes)
    assert index._table is not None
    assert index._table.candidates(one) is None
    assert index.search(one) == by_comparison(hashes, one, 31)
    assert len(index.search(one)) > 300


def test_an_empty_index_finds_nothing() -> None:
    """As most servers have it."""
    assert PdqIndex.of([]).search(bytes(32)) == []
    assert len(PdqIndex.of([])) == 0


@pytest.mark.parametrize("distance", [-1, 32])
def test_a_distance_that_the_parts_cannot_vouch_for_is_refused(distance: int) -> None:
    """Silence would be wrong: some that are near would not be found."""
    with pytest.raises(ValueError, match="from 0 to 31"):
        PdqIndex(many(3)).search(bytes(32), distance)


@pytest.mark.parametrize("shape", [(3, 31), (96,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """A hash has 32 bytes."""
    with pytest.raises(ValueError, match=r"\(N, 32\)"):
        PdqIndex(np.zeros(shape, np.uint8))
