"""A folder, a tar or a list of paths -> files in a fixed order, each with its digest.

Nothing is unpacked: a tar is read from front to back, each member into a file without a name, so
what a member is called reaches no path. Only regular files count; a folder's links to files are
followed, for that is how a sample is put together, links to folders are not.
"""

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast

from safety_proxy.errors import ConfigError
from safety_proxy.media.spool import Media


@dataclass(frozen=True, slots=True)
class Found:
    """A file. Whoever takes it closes its media.

    name: as it may be shown: relative to the source, and with nothing in it that does not print.
    group: the sub-folder that it lies in, "" for none.
    """

    name: str
    group: str
    media: Media


@dataclass(frozen=True, slots=True)
class Unopened:
    """A file that cannot be read, and why."""

    name: str
    problem: str


class Source(Protocol):
    """Files, one at a time; iterating blocks, so not for the event loop."""

    @property
    def count(self) -> int | None:
        """How many files there are, where that is known before they are read."""

    def __iter__(self) -> Iterator[Found | Unopened]:
        """The files, in the same order each time. What is given out must be closed."""


def open_source(path: Path) -> Source:
    """The files at `path`. Raises ConfigError if there is none, or nothing to take them from."""
    try:
        return _open(path)
    except OSError as error:
        raise ConfigError(f"{printable(str(path))}: cannot be read: {error.strerror}.") from error


def _open(path: Path) -> Source:
    where = printable(str(path))
    if path.is_dir():
        files = [(file, _group(file.relative_to(path))) for file in _walk(path)]
        if not files:
            raise ConfigError(f"{where}: no file in this folder. Put pictures into it.")
        return _Files(files, root=path)
    if not path.exists():
        raise ConfigError(f"{where}: not found. Name a folder, a tar, or a list of paths.")
    if tarfile.is_tarfile(path):
        return _Tar(path)
    return _Files(_listed(path, where), root=None)


def printable(name: str) -> str:
    r"""The name with all that does not print as `\x1b`: no line ends, no escapes, no bidi marks."""
    if name.isprintable():
        return name
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in name
    )


class _Files:
    """Files by their paths."""

    def __init__(self, files: list[tuple[Path, str]], *, root: Path | None) -> None:
        self._files = files
        self._root = root
        self.count: int | None = len(files)

    def __iter__(self) -> Iterator[Found | Unopened]:
        for file, group in self._files:
            name = printable(str(file.relative_to(self._root) if self._root else file))
            try:
                # A pipe would never end, and opening one waits for a writer.
                if file.exists() and not file.is_file():
                    yield Unopened(name, "not a regular file")
                else:
                    yield Found(name, printable(group), Media.from_path(file))
            except (OSError, ValueError) as error:  # the latter of a path with a zero byte in it
                yield Unopened(name, getattr(error, "strerror", None) or str(error))


def _walk(folder: Path) -> Iterator[Path]:
    """All but folders and what a system hides, in the order of the names."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            yield entry
        elif not entry.is_symlink():
            yield from _walk(entry)


def _group(path: Path | PurePosixPath) -> str:
    """The first folder of a path within the source."""
    return path.parts[0] if len(path.parts) > 1 else ""


def _listed(path: Path, where: str) -> list[tuple[Path, str]]:
    """A text file's lines as paths, each grouped by its folder's name."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: neither a tar nor a UTF-8 list of paths. A picture alone cannot be "
            "evaluated: name the folder that it lies in."
        ) from error
    files = [(Path(line), Path(line).parent.name) for line in lines if line.strip()]
    if not files:
        raise ConfigError(f"{where}: the list is empty. Write one path a line into it.")
    return files


class _Tar:
    """The regular files of a tar, compressed or not, in its own order."""

    count: int | None = None

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Found | Unopened]:
        where = printable(str(self._path))
        try:
            with tarfile.open(self._path, "r|*") as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isreg() else None
                    if content is not None:
                        group = _group(PurePosixPath(member.name.removeprefix("./")))
                        yield Found(printable(member.name), printable(group), _spooled(content))
        except (tarfile.TarError, EOFError, OSError) as error:
            # What came before it has been counted; a broken end is one more unreadable file.
            yield Unopened(where, f"the tar breaks off: {error}")


def _spooled(content: IO[bytes]) -> Media:
    file = tempfile.TemporaryFile(prefix="safety-proxy-")  # noqa: SIM115 -- the media owns it
    try:
        shutil.copyfileobj(content, file)
        size_bytes = file.tell()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    except BaseException:
        file.close()
        raise
    return Media(cast("IO[bytes]", file), sha256=digest, size_bytes=size_bytes)
