"""Tests of safety_proxy/evaluation/sources.py: which files count, in which order, by what name."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from safety_proxy.errors import ConfigError
from safety_proxy.evaluation.sources import Found, Source, Unopened, open_source, printable
from tests.fakes import bytes_of


def taken(source: Source) -> list[tuple[str, str, bytes]]:
    """Name, group and bytes of all that can be read; each digest is checked."""
    result = []
    for found in source:
        if isinstance(found, Found):
            with found.media as media:
                body = bytes_of(media)
                assert media.sha256 == hashlib.sha256(body).hexdigest()
                assert media.size_bytes == len(body)
            result.append((found.name, found.group, body))
    return result


def problems(source: Source) -> list[tuple[str, str]]:
    """Name and problem of all that cannot be read."""
    found = list(source)
    for file in found:
        if isinstance(file, Found):
            file.media.close()
    return [(file.name, file.problem) for file in found if isinstance(file, Unopened)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files at the top and two in sub-folders, made in another order than that of the names."""
    root = tmp_path / "pictures"
    for name in ("z.png", "birds/b.png", "a.png", "birds/deep/a.png"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return root


def test_folder_gives_its_files_sorted_and_grouped(folder: Path) -> None:
    """At any depth; the group is the first sub-folder."""
    source = open_source(folder)
    assert source.count == 4
    assert taken(source) == [
        ("a.png", "", b"a.png"),
        ("birds/b.png", "birds", b"birds/b.png"),
        ("birds/deep/a.png", "birds", b"birds/deep/a.png"),
        ("z.png", "", b"z.png"),
    ]
    assert taken(source) == taken(source)


def test_folder_leaves_out_the_hidden_and_does_not_walk_in_circles(folder: Path) -> None:
    """A link to a file counts, one to a folder does not."""
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(b"hidden")
    (folder / ".DS_Store").write_bytes(b"hidden")
    (folder / "circle").symlink_to(folder)
    (folder / "link.png").symlink_to(folder / "z.png")
    assert [name for name, _, _ in taken(open_source(folder))] == [
        "a.png",
        "birds/b.png",
        "birds/deep/a.png",
        "link.png",
        "z.png",
    ]


def test_what_cannot_be_read_is_named_and_ends_nothing(folder: Path) -> None:
    """A pipe would block for ever; a dangling link has no bytes."""
    os.mkfifo(folder / "pipe")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    assert problems(open_source(folder)) == [
        ("gone.png", "No such file or directory"),
        ("pipe", "not a regular file"),
    ]
    assert len(taken(open_source(folder))) == 4


def test_list_gives_its_paths_in_its_own_order(folder: Path, tmp_path: Path) -> None:
    """Each under the name of its folder; empty lines do not count, a missing file is named."""
    files = [folder / "z.png", folder / "birds" / "b.png"]
    paths = tmp_path / "list.txt"
    paths.write_text(f"{files[0]}\r\n\n{files[1]}\n{folder}/none.png\n", encoding="utf-8")
    source = open_source(paths)
    assert source.count == 3
    assert taken(source) == [
        (str(files[0]), "pictures", b"z.png"),
        (str(files[1]), "birds", b"birds/b.png"),
    ]
    assert problems(source) == [(f"{folder}/none.png", "No such file or directory")]


def test_list_with_a_path_that_no_system_takes_goes_on(folder: Path, tmp_path: Path) -> None:
    """A zero byte is named like any other trouble."""
    paths = tmp_path / "list.txt"
    paths.write_bytes(b"a\0b.png\n" + bytes(folder / "z.png"))
    assert problems(open_source(paths)) == [("a\\x00b.png", "embedded null byte")]
    assert len(taken(open_source(paths))) == 1


def tar_of(path: Path, compress: Callable[[bytes], bytes] = bytes) -> Path:
    """A tar with two pictures, and with everything that must not count or lead out of it."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:

        def add(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            body = name.encode() if kind == tarfile.REGTYPE else b""
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))

        add("./birds", tarfile.DIRTYPE)
        add("./birds/a.png")
        add("link", tarfile.SYMTYPE, "/etc/hostname")
        add("hard", tarfile.LNKTYPE, "./birds/a.png")
        add("device", tarfile.CHRTYPE)
        add("pipe", tarfile.FIFOTYPE)
        add("../../outside.png")
    path.write_bytes(compress(whole.getvalue()))
    return path


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_tar_gives_regular_files_alone(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """No link, no device; a name that climbs out is a name and nothing else."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    source = open_source(tar_of(tmp_path / "a" / "b" / "pictures.tar", compress))
    assert source.count is None
    assert taken(source) == [
        ("./birds/a.png", "birds", b"./birds/a.png"),
        ("../../outside.png", "..", b"../../outside.png"),
    ]
    assert not list(tmp_path.rglob("*.png"))


def test_tar_that_breaks_off_gives_what_came_before(tmp_path: Path) -> None:
    """The break itself is one unreadable file, so that nobody takes the count for whole."""
    whole = tar_of(tmp_path / "whole.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    start = whole.index(b"../../outside.png") + 512
    cut.write_bytes(whole[: start + 3])
    assert [name for name, _, _ in taken(open_source(cut))] == ["./birds/a.png"]
    ((name, problem),) = problems(open_source(cut))
    assert name == str(cut)
    assert problem.startswith("the tar breaks off")


def empty_folder(path: Path) -> None:
    path.mkdir()


def hidden_only(path: Path) -> None:
    path.mkdir()
    (path / ".keep").touch()


def empty_list(path: Path) -> None:
    path.write_text("\n\n", encoding="utf-8")


def picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (empty_folder, "Put pictures into it"),
        (hidden_only, "Put pictures into it"),
        (empty_list, "Write one path a line into it"),
        (picture, "name the folder that it lies in"),
        (lambda path: None, "Name a folder, a tar, or a list"),
    ],
)
def test_a_source_without_pictures_is_an_error_with_a_remedy(
    tmp_path: Path, make: Callable[[Path], None], remedy: str
) -> None:
    """And with the path."""
    path = tmp_path / "source"
    make(path)
    with pytest.raises(ConfigError, match=remedy) as raised:
        open_source(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("bird.png", "bird.png"),
        ("日本 é.png", "日本 é.png"),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        (os.fsdecode(b"latin-\xe9.png"), "latin-\\udce9.png"),
    ],
)
def test_names_print_as_one_line_without_effects(name: str, shown: str) -> None:
    """They come from strangers, and go to a terminal and into UTF-8."""
    assert printable(name) == shown
    assert printable(name).encode()
