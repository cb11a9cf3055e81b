"""Tests of safety_proxy/store/entries.py: what a hash is, and what it is called elsewhere."""

import pytest

from safety_proxy.store.entries import Kind, flat, hash_in, kind_named


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("HASH_PDQ", Kind.PDQ),
        ("pdq_hash", Kind.PDQ),
        ("SHA-1", Kind.SHA1),
        ("Sha 256", Kind.SHA256),
        ("HASH_VIDEO_MD5", Kind.MD5),
        ("PDNA", None),
        ("", None),
    ],
)
def test_kinds_go_by_many_names(name: str, kind: Kind | None) -> None:
    """Those of ThreatExchange, HMA and NCMEC."""
    assert kind_named(name) is kind


@pytest.mark.parametrize("digits", [32, 40, 64])
def test_hashes_are_hex_digits_of_three_lengths(digits: int) -> None:
    """In either case, with blanks around; not within, and no other digits."""
    assert hash_in(f" {'Ab' * (digits // 2)}\n") == b"\xab" * (digits // 2)
    for wrong in ("a" * (digits - 1), "g" * digits, "a b" * (digits // 3), "\u0661" * digits):
        assert hash_in(wrong.ljust(digits)) is None
    assert hash_in("aa " * ((digits + 1) // 3) + "a" * ((digits + 1) % 3)) is None


@pytest.mark.parametrize(
    ("set_bits", "is_flat"),
    [(0, True), (111, True), (112, False), (128, False), (144, False), (145, True)],
)
def test_a_hash_has_half_its_bits_set(set_bits: int, *, is_flat: bool) -> None:
    """A few less where values are equal; far from it the picture was flat."""
    assert flat(((1 << set_bits) - 1).to_bytes(32)) is is_flat
