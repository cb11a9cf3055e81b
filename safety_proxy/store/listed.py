"""The admin's own decisions about single pictures, in SQLite, each with its note: who and why.

The running server and a command that finds none running write through the same functions.
"""

import getpass
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Final

from safety_proxy.errors import ConfigError
from safety_proxy.evidence import Pdq
from safety_proxy.store.database import Database
from safety_proxy.store.entries import Kind
from safety_proxy.verdict import Action

_PDQ_BYTES: Final = 33  # a hash and its quality
_HEX_DIGITS: Final = {32: Kind.MD5, 40: Kind.SHA1, 64: Kind.SHA256}


@dataclass(frozen=True, slots=True)
class OwnEntry:
    """What the admin decided about the bytes whose digest is `sha256`.

    pdq: of a block, the hashes that it spreads by to near-duplicates; empty: to none.
    at: seconds since the epoch.
    """

    sha256: str
    action: Action
    note: str = ""
    who: str = ""
    pdq: tuple[Pdq, ...] = ()
    at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if self.action is Action.FLAG or (self.action is Action.ALLOW and self.pdq):
            raise ValueError("an entry allows exact bytes, or blocks")


@dataclass(frozen=True, slots=True)
class Exclusion:
    """An entry of the shared lists, in hex, that does not count on this server."""

    hash: str
    note: str = ""
    who: str = ""
    at: float = field(default_factory=time.time)


class OwnLists:
    """The two tables. All methods but the constructor raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def entries(self) -> list[OwnEntry]:
        """All of them, the oldest first."""
        rows = await self._database.run(
            lambda connection: connection.execute(
                "SELECT sha256, action, note, who, pdq, listed_at FROM listed"
                " ORDER BY listed_at, sha256"
            ).fetchall()
        )
        return [
            OwnEntry(sha256, Action(action), note, who, _unpacked(pdq), at)
            for sha256, action, note, who, pdq, at in rows
        ]

    async def put(self, entry: OwnEntry) -> None:
        """Writes it in place of what was decided about these bytes before."""
        await self._database.run(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO listed (sha256, action, pdq, note, who, listed_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    entry.sha256,
                    entry.action.value,
                    _packed(entry.pdq),
                    entry.note,
                    entry.who,
                    entry.at,
                ),
            )
        )

    async def remove(self, sha256: str, action: Action) -> bool:
        """Takes a decision back; whether there was such a one."""
        return await self._database.run(
            lambda connection: _deleted(
                connection,
                "DELETE FROM listed WHERE sha256 = ? AND action = ?",
                (sha256, action.value),
            )
        )

    async def exclusions(self) -> list[Exclusion]:
        """All of them, the oldest first."""
        rows = await self._database.run(
            lambda connection: connection.execute(
                "SELECT hash, note, who, excluded_at FROM excluded ORDER BY excluded_at, hash"
            ).fetchall()
        )
        return [Exclusion(*row) for row in rows]

    async def exclude(self, exclusion: Exclusion) -> None:
        """From now on the entry of the shared lists does not count."""
        await self._database.run(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO excluded (hash, note, who, excluded_at)"
                " VALUES (?, ?, ?, ?)",
                (exclusion.hash, exclusion.note, exclusion.who, exclusion.at),
            )
        )

    async def include(self, hash_: str) -> bool:
        """Takes an exclusion back; whether there was one."""
        return await self._database.run(
            lambda connection: _deleted(connection, "DELETE FROM excluded WHERE hash = ?", (hash_,))
        )


def checked_sha256(text: str) -> str:
    """The digest in lower case. Raises ConfigError if it is none."""
    if _kind_by_length(text) is not Kind.SHA256:
        raise ConfigError(
            f"{text!r}: neither a file nor a sha256, which has 64 hex digits. `sha256sum FILE` "
            "prints it, and so does each line that the server logs of a refused picture."
        )
    return text.strip().lower()


def checked_hash(text: str) -> str:
    """A hash of any kind in lower case. Raises ConfigError if it is none."""
    if _kind_by_length(text) is None:
        raise ConfigError(
            f"{text!r}: no hash of a list, which has 32, 40 or 64 hex digits. `safety-proxy "
            "explain` prints the entry that matched a picture."
        )
    return text.strip().lower()


def user_name() -> str:
    """Who runs this command, as an entry keeps it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container there may be a number only
        return ""


def _kind_by_length(text: str) -> Kind | None:
    digits = text.strip().lower()
    if set(digits) <= set("0123456789abcdef"):
        return _HEX_DIGITS.get(len(digits))
    return None


def _deleted(connection: Connection, statement: str, parameters: Sequence[str]) -> bool:
    return connection.execute(statement, parameters).rowcount > 0


def _packed(pdq: Sequence[Pdq]) -> bytes:
    return b"".join(one.bits + bytes([one.quality]) for one in pdq)


def _unpacked(packed: bytes) -> tuple[Pdq, ...]:
    return tuple(
        Pdq(packed[start : start + _PDQ_BYTES - 1], packed[start + _PDQ_BYTES - 1])
        for start in range(0, len(packed), _PDQ_BYTES)
    )
