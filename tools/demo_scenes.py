"""Training pictures in batches, distorted, and much faster than demo_synth draws single ones.

Everything random comes from one seed for each batch, so a batch can be drawn again at any time.
"""

import io
import math

import numpy as np
import torch
from demo_concepts import FIRE_ICONS, GROUPS, WATER_ICONS
from demo_data import Artwork
from demo_synth import chance, layout, pick
from PIL import Image
from torch.nn import functional

Random = np.random.Generator

# A larger drawing than needed would alias when it is sampled; the next smaller one is taken.
LEVELS = (96, 48, 24)
MAX_ICONS = 3


class SceneMaker:
    """Draws batches of random training scenes from rendered artwork."""

    def __init__(self, art: Artwork, size: int, styles: tuple[str, ...]) -> None:
        self.size = size
        self.pyramid = _pyramid(art.pictures)
        self.rows = {
            (style, inked): art.rows(style, inked=inked)
            for style in styles
            for inked in (False, True)
        }
        self.styles = styles
        self.icons = sorted({icon for table in self.rows.values() for icon in table})
        known = set(self.icons)
        self.groups = [[i for i in group.icons if i in known] for group in GROUPS.values()]

    def icons_of_scene(self, random: Random, stage: float, everyday_share: float) -> list[str]:
        """Distinct icons, never fire and water together: that pair stays unseen."""
        several = 0.5 * stage
        count = int(random.choice(4, p=[0.06, 0.94 - several, 0.7 * several, 0.3 * several]))
        while True:
            icons = [self._icon(random, everyday_share) for _ in range(count)]
            both = FIRE_ICONS.intersection(icons) and WATER_ICONS.intersection(icons)
            if len(set(icons)) == count and not both:
                return icons

    def _icon(self, random: Random, everyday_share: float) -> str:
        """The everyday concepts come up more often than all other icons together."""
        if chance(random, everyday_share):
            return pick(random, pick(random, self.groups))
        return pick(random, self.icons)

    def _row(self, random: Random, icon: str) -> int:
        """A drawing of an icon; every style counts the same."""
        inked = chance(random, 0.4)
        styles = [style for style in self.styles if icon in self.rows[style, inked]]
        return pick(random, self.rows[pick(random, styles), inked][icon])

    def draw(self, random: Random, scenes: list[list[str]], stage: float) -> torch.Tensor:
        """Pictures (B, 3, size, size) uint8 of the icons of each scene."""
        noise = torch.Generator().manual_seed(int(random.integers(2**62)))
        canvas = _backgrounds(noise, len(scenes), self.size)
        boxes = [layout(random, len(icons), self.size, stage) if icons else [] for icons in scenes]
        for place in range(MAX_ICONS):
            which = [number for number, icons in enumerate(scenes) if len(icons) > place]
            if not which:
                break
            rows = [self._row(random, scenes[number][place]) for number in which]
            squares = torch.tensor([boxes[number][place] for number in which], dtype=torch.float)
            layers = self._layers(noise, rows, squares)
            layers = _outlined(noise, _recolored(noise, layers))
            below = canvas[which]
            canvas[which] = below * (1 - layers[:, 3:]) + layers[:, :3]
        return _degraded(noise, random, canvas, stage)

    def _layers(
        self, noise: torch.Generator, rows: list[int], squares: torch.Tensor
    ) -> torch.Tensor:
        """(N, 4, size, size) premultiplied: drawings turned, stretched and put in their squares."""
        count, size = len(rows), self.size
        left, top, side = squares.T
        center_x, center_y = ((edge + side / 2) / size * 2 - 1 for edge in (left, top))
        angle = _uniform(noise, count, -0.4, 0.4) * (torch.rand(count, generator=noise) < 0.6)
        stretch = torch.exp(_uniform(noise, count, -0.14, 0.14))
        mirror = torch.where(torch.rand(count, generator=noise) < 0.5, -1.0, 1.0)
        wide, high = side / size * stretch, side / size / stretch
        cos, sin = torch.cos(angle), torch.sin(angle)
        # From a place on the canvas back to one on the drawing.
        a, b = mirror * cos / wide, mirror * sin / wide
        c, d = -sin / high, cos / high
        theta = torch.stack(
            [a, b, -a * center_x - b * center_y, c, d, -c * center_x - d * center_y], 1
        ).view(count, 2, 3)
        grid = functional.affine_grid(theta, [count, 4, size, size], align_corners=False)
        layers = torch.zeros(count, 4, size, size)
        numbers = torch.tensor(rows)
        level = torch.where(side > 52, 0, torch.where(side > 26, 1, 2))
        for index, drawings in enumerate(self.pyramid):
            chosen = level == index
            if chosen.any():
                source = drawings[numbers[chosen]].permute(0, 3, 1, 2).float() / 255
                layers[chosen] = functional.grid_sample(source, grid[chosen], align_corners=False)
        return layers


def _pyramid(pictures: np.ndarray) -> list[torch.Tensor]:
    """The drawings premultiplied, at each of LEVELS: (n, side, side, 4) uint8."""
    levels = []
    full = torch.from_numpy(pictures)
    for side in LEVELS:
        parts = []
        for part in full.split(512):
            values = part.float()
            values[..., :3] *= values[..., 3:] / 255
            step = full.shape[1] // side
            small = functional.avg_pool2d(values.permute(0, 3, 1, 2), step)
            parts.append(small.permute(0, 2, 3, 1).round().to(torch.uint8))
        levels.append(torch.cat(parts))
    return levels


def _uniform(noise: torch.Generator, count: int, low: float, high: float) -> torch.Tensor:
    return torch.rand(count, generator=noise) * (high - low) + low


def _colors(noise: torch.Generator, count: int) -> torch.Tensor:
    """(N, 3, 1, 1) colors; near-white ones are the most common in real pictures."""
    colors = torch.rand(count, 3, generator=noise)
    pale = torch.rand(count, 1, generator=noise) < 0.3
    shade = torch.rand(count, 1, generator=noise) * 0.12 + 0.88
    return torch.where(pale, shade, colors).view(count, 3, 1, 1)


def _backgrounds(noise: torch.Generator, count: int, size: int) -> torch.Tensor:
    """(N, 3, size, size): plain, gradients, noise, stripes and disks."""
    first, second = _colors(noise, count), _colors(noise, count)
    axis = torch.linspace(-1, 1, size)
    angle = _uniform(noise, count, 0, 2 * math.pi).view(-1, 1, 1)
    ramp = axis * torch.cos(angle) + axis.view(-1, 1) * torch.sin(angle)
    share = (ramp / 2 + 0.5).clamp(0, 1)
    waves = _uniform(noise, count, 3, 25).view(-1, 1, 1)
    stripes = (torch.sin(ramp * waves + angle) > 0).float()
    middle = _uniform(noise, 2 * count, -1, 1).view(2, count, 1, 1)
    radius = _uniform(noise, count, 0.1, 0.8).view(-1, 1, 1)
    disk = ((axis - middle[0]) ** 2 + (axis.view(-1, 1) - middle[1]) ** 2 < radius**2).float()
    grain = int(torch.randint(0, 4, (1,), generator=noise))
    coarse = torch.randn(count, 3, (4, 8, 16, 32)[grain], (4, 8, 16, 32)[grain], generator=noise)
    rough = functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    spread = _uniform(noise, count, 0.03, 0.22).view(-1, 1, 1, 1)
    kind = torch.multinomial(
        torch.tensor([0.45, 0.25, 0.17, 0.07, 0.06]), count, replacement=True, generator=noise
    )
    zero = torch.zeros_like(share)
    mixes = torch.stack([zero, share, zero, stripes, disk])[kind, torch.arange(count)]
    canvas = first + (second - first) * mixes.unsqueeze(1)
    return (canvas + rough * spread * (kind == 2).view(-1, 1, 1, 1)).clamp(0, 1)


# Brightness and two axes of color (YIQ), in which a change of hue is a rotation.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


def _recolored(noise: torch.Generator, layers: torch.Tensor) -> torch.Tensor:
    """Each layer with another hue, saturation and brightness; linear, so premultiplied stays so."""
    count = len(layers)
    draw = torch.rand(count, generator=noise)
    hue = torch.where(draw < 0.25, _uniform(noise, count, -0.35, 0.35), torch.zeros(count))
    hue = torch.where(draw > 0.94, _uniform(noise, count, -math.pi, math.pi), hue)
    color = torch.where(
        torch.rand(count, generator=noise) < 0.5,
        _uniform(noise, count, 0.5, 1.6),
        torch.ones(count),
    )
    color = torch.where(torch.rand(count, generator=noise) < 0.05, torch.zeros(count), color)
    light = torch.where(
        torch.rand(count, generator=noise) < 0.4,
        _uniform(noise, count, 0.75, 1.25),
        torch.ones(count),
    )
    turn = torch.zeros(count, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = torch.cos(hue) * color
    turn[:, 1, 2], turn[:, 2, 1] = -torch.sin(hue) * color, torch.sin(hue) * color
    matrix = light.view(-1, 1, 1) * (_FROM_YIQ @ turn @ _TO_YIQ)
    colors = torch.einsum("nij,njhw->nihw", matrix, layers[:, :3])
    alpha = layers[:, 3:]
    return torch.cat([torch.minimum(colors.clamp(min=0), alpha), alpha], 1)


def _outlined(noise: torch.Generator, layers: torch.Tensor) -> torch.Tensor:
    """Some layers with a dark or white rim around the drawing."""
    draw = torch.rand(len(layers), generator=noise)
    chosen = (draw < 0.15).nonzero().flatten()
    if len(chosen):
        colors, alpha = layers[chosen, :3], layers[chosen, 3:]
        grown = torch.maximum(functional.max_pool2d((alpha > 0.4).float(), 3, 1, 1), alpha)
        white = (draw[chosen] > 0.11).view(-1, 1, 1, 1)
        layers[chosen] = torch.cat([colors + grown * (1 - alpha) * white, grown], 1)
    return layers


def _degraded(
    noise: torch.Generator, random: Random, canvas: torch.Tensor, stage: float
) -> torch.Tensor:
    """Whole pictures with contrast, brightness, blur, gray, noise or JPEG's marks."""
    count = len(canvas)

    def some(share: float) -> torch.Tensor:
        return (torch.rand(count, generator=noise) < share * stage).view(-1, 1, 1, 1)

    def between(low: float, high: float) -> torch.Tensor:
        return _uniform(noise, count, low, high).view(-1, 1, 1, 1)

    contrast = torch.where(some(0.3), between(0.6, 1.4), torch.ones(count, 1, 1, 1))
    light = torch.where(some(0.3), between(0.7, 1.3), torch.ones(count, 1, 1, 1))
    middle = canvas.mean((1, 2, 3), keepdim=True)
    canvas = ((canvas - middle) * contrast + middle) * light
    soft = some(0.2).flatten().nonzero().flatten()
    if len(soft):
        wide = functional.pad(canvas[soft], (1, 1, 1, 1), mode="replicate")
        canvas[soft] = torch.lerp(
            canvas[soft], functional.avg_pool2d(wide, 3, 1), between(0.3, 1.0)[soft]
        )
    canvas = torch.where(some(0.05), canvas.mean(1, keepdim=True), canvas)
    grain = torch.randn(canvas.shape, generator=noise) * between(0.01, 0.06)
    pictures = ((canvas + grain * some(0.2)).clamp(0, 1) * 255).byte()
    for number in random.choice(count, round(0.2 * stage * count), replace=False):
        pictures[number] = _through_jpeg(pictures[number], int(random.integers(35, 95)))
    return pictures


def _through_jpeg(picture: torch.Tensor, quality: int) -> torch.Tensor:
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(
        buffer, "JPEG", quality=quality
    )
    with Image.open(buffer) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
