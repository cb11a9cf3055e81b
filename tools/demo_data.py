"""Download, choose and render the emoji artwork for the demo model.

Every set is a pinned npm package that holds a JSON file of SVG bodies.  Each icon is drawn
once as a small RGBA picture; the result is kept in the cache folder.
"""

import io
import json
import re
import subprocess
import tarfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from demo_concepts import (
    CATEGORIES,
    FXEMOJI_NAMES,
    GROUPS,
    KEPT_ANYWAY,
    MERGED_NAMES,
    SKIPPED_WORDS,
)
from PIL import Image

DEFAULT_CACHE = Path("~/.cache/safety-proxy/emoji")
RENDER_SIZE = 96
INK_WIDTH = 0.025  # outline width as a share of the icon's width


@dataclass(frozen=True)
class Style:
    """One artwork set: a pinned npm package and its license."""

    key: str
    version: str
    license: str
    title: str

    @property
    def package(self) -> str:
        return f"@iconify-json/{self.key}@{self.version}"


TRAIN_STYLES = (
    Style("noto", "1.2.9", "Apache-2.0", "Noto Emoji by Google"),
    Style("noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji version 1 by Google"),
    Style("twemoji", "1.2.5", "CC-BY-4.0", "Twemoji by Twitter and contributors"),
    Style("fluent-emoji", "1.2.7", "MIT", "Fluent Emoji by Microsoft"),
    Style("fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji Flat by Microsoft"),
    Style("fxemoji", "1.2.2", "Apache-2.0", "Firefox OS Emoji by Mozilla"),
    Style("emojione", "1.2.3", "CC-BY-4.0", "Emoji One 2 by Emoji One"),
)
HELD_OUT_STYLE = Style("openmoji", "1.2.29", "CC-BY-SA-4.0", "OpenMoji by HfG Schwaebisch Gmuend")
KEYWORDS_PACKAGE = "emojilib@4.0.3"


@dataclass
class Artwork:
    """All rendered icons: which picture shows which icon in which style."""

    pictures: np.ndarray  # (n, RENDER_SIZE, RENDER_SIZE, 4) uint8
    icons: list[str]
    styles: list[str]
    inked: np.ndarray  # (n,) bool: drawn with added dark outlines

    def rows(self, style: str | None = None, *, inked: bool | None = None) -> dict[str, list[int]]:
        """Return the picture numbers of each icon, limited to a style and kind if given."""
        found: dict[str, list[int]] = {}
        for row, icon in enumerate(self.icons):
            if style is not None and self.styles[row] != style:
                continue
            if inked is None or bool(self.inked[row]) == inked:
                found.setdefault(icon, []).append(row)
        return found


def npm_package(spec: str, cache: Path) -> Path:
    """Download an npm package once and return the folder that holds its files."""
    folder = cache / re.sub(r"[@/]+", "-", spec).strip("-")
    if not (folder / "package.json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", spec, "--silent"]
        done = subprocess.run(command, cwd=cache, check=True, capture_output=True, text=True)
        with tarfile.open(cache / done.stdout.split()[-1]) as archive:
            for member in archive.getmembers():
                member.name = member.name.partition("/")[2]
                if member.isfile():
                    archive.extract(member, folder, filter="data")
    return folder


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def is_wanted(icon: str) -> bool:
    """Tell whether an icon is an everyday, harmless thing."""
    if icon in KEPT_ANYWAY:
        return True
    return SKIPPED_WORDS.isdisjoint(icon.split("-"))


def choose_icons(cache: Path) -> list[str]:
    """Return the icons the model learns, from the Noto categories."""
    folder = npm_package(TRAIN_STYLES[0].package, cache)
    categories = read_json(folder / "metadata.json")["categories"]
    others = sorted(icon for name in CATEGORIES for icon in categories[name] if is_wanted(icon))
    icons = set(others[::3])  # a third of them: what the model learns in its time is not more
    icons.update(icon for group in GROUPS.values() for icon in group.icons + group.unsure)
    return sorted(icons & set(read_json(folder / "icons.json")["icons"]))


def icon_characters(cache: Path) -> dict[str, str]:
    """Map icon names to their emoji characters."""
    folder = npm_package(TRAIN_STYLES[0].package, cache)
    found: dict[str, str] = {}
    for code, icon in read_json(folder / "chars.json").items():
        found.setdefault(icon, "".join(chr(int(part, 16)) for part in code.split("-")))
    return found


def icon_keywords(cache: Path, icons: list[str]) -> dict[str, set[str]]:
    """Return emojilib's plain single-word keywords of each icon."""
    table = read_json(npm_package(KEYWORDS_PACKAGE, cache) / "dist" / "emoji-en-US.json")
    by_character = {key.replace("\ufe0f", ""): words for key, words in table.items()}
    characters = icon_characters(cache)
    result: dict[str, set[str]] = {}
    for icon in icons:
        words = by_character.get(characters.get(icon, ""), [])
        result[icon] = {word for word in words if re.fullmatch(r"[a-z]{3,12}", word)}
    return result


def shown_name(icon: str) -> str:
    """Return an icon's name as plain words."""
    return MERGED_NAMES.get(icon, icon.replace("-", " "))


def squeeze(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def own_names(style: Style, names: list[str], icons: list[str], cache: Path) -> dict[str, str]:
    """Map a set's own icon names to ours."""
    if style.key != "fxemoji":
        return {icon: icon for icon in icons if icon in set(names)}
    known = {squeeze(icon): icon for icon in icons}
    for icon, character in icon_characters(cache).items():
        if len(character) == 1 and icon in set(icons):
            known.setdefault(squeeze(unicodedata.name(character, "")), icon)
    mapped = {name: known[squeeze(name)] for name in names if squeeze(name) in known}
    mapped.update({name: icon for name, icon in FXEMOJI_NAMES.items() if name in set(names)})
    return mapped


def draw(data: dict[str, Any], name: str, size: int, *, inked: bool = False) -> Image.Image:
    """Render one icon of an artwork set as a square RGBA picture."""
    icon = data["icons"][name]
    width = icon.get("width", data.get("width", 16))
    height = icon.get("height", data.get("height", 16))
    body = icon["body"]
    if inked:
        # Shapes without a stroke of their own inherit this one, so that the drawing gets the
        # dark outlines that some emoji styles have.
        ink = f'stroke="#000" stroke-width="{width * INK_WIDTH:.3f}" stroke-linejoin="round"'
        body = f"<g {ink}>{body}</g>"
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{size}" height="{size}">{body}</svg>'
    )
    rendered = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(rendered))).convert("RGBA")


def render_style(
    style: Style, icons: list[str], cache: Path
) -> Iterator[tuple[str, bool, np.ndarray]]:
    """Yield every wanted icon of a set, plain and (training sets only) with added outlines."""
    data = read_json(npm_package(style.package, cache) / "icons.json")
    for name, icon in own_names(style, list(data["icons"]), icons, cache).items():
        for inked in (False, True) if style in TRAIN_STYLES else (False,):
            picture = np.asarray(draw(data, name, RENDER_SIZE, inked=inked))
            if picture[..., 3].max() > 0:
                yield icon, inked, picture


def load_artwork(styles: tuple[Style, ...], icons: list[str], cache: Path) -> Artwork:
    """Return the rendered icons of several sets, from the cache where possible."""
    pictures: list[np.ndarray] = []
    art = Artwork(np.zeros(0), [], [], np.zeros(0, bool))
    inked: list[bool] = []
    for style in styles:
        stored = cache / f"{style.key}-{style.version}-{RENDER_SIZE}.npz"
        if not stored.exists():
            print(f"rendering {style.title}", flush=True)
            rows = list(render_style(style, icons, cache))
            names, flags, drawn = (list(column) for column in zip(*rows, strict=True))
            np.savez_compressed(stored, icons=names, inked=flags, pictures=np.stack(drawn))
        with np.load(stored) as saved:
            kept = np.isin(saved["icons"], icons)
            pictures.append(saved["pictures"][kept])
            art.icons += [str(name) for name in saved["icons"][kept]]
            inked += [bool(flag) for flag in saved["inked"][kept]]
        art.styles += [style.key] * (len(art.icons) - len(art.styles))
    art.pictures, art.inked = np.concatenate(pictures), np.array(inked)
    return art
