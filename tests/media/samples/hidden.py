"""Pictures beside the picture: the purple is where no browser looks, or where only some do."""

import io
import struct
import zipfile

from PIL import Image

from tests.media.samples.stills import chunk
from tests.media.samples.tools import Make, filmed, scene, scenes, with_metadata
from tests.pictures import Color, encoded

THUMBNAIL = (160, 120)


def _thumbnail(color: Color) -> bytes:
    return encoded(scene(color, size=THUMBNAIL), "JPEG")


def _photo(size: tuple[int, int] = (320, 240)) -> bytes:
    return encoded(scene(size=size), "JPEG")


def in_exif(color: Color, kind: str = "jpg") -> bytes:
    """As the thumbnail that cameras write."""
    body = {"jpg": _photo, "png": lambda: encoded(scene())}[kind]()
    if kind == "jpg":
        body = with_metadata(body, kind, "-Make=camera")
    return with_metadata(body, kind, "-ThumbnailImage<=t.jpg", t_jpg=_thumbnail(color))


def in_photoshop(color: Color) -> bytes:
    """As the thumbnail that Photoshop writes into its own resources."""
    return with_metadata(_photo(), "jpg", "-PhotoshopThumbnail<=t.jpg", t_jpg=_thumbnail(color))


def in_jfif(color: Color) -> bytes:
    """As the thumbnail of JFIF, a JPEG in a JPEG."""
    small = b"JFXX\0\x10" + encoded(scene(color, size=(96, 72)), "JPEG", quality=60)
    segment = b"\xff\xe0" + struct.pack(">H", len(small) + 2) + small
    body = _photo()
    at = 4 + int.from_bytes(body[4:6], "big")
    return body[:at] + segment + body[at:]


def second_of_mpo(color: Color) -> bytes:
    """The second picture of a file that declares two."""
    return encoded(scene(), "MPO", save_all=True, append_images=[scene(color, step=3)])


def appended(first: bytes, second: bytes) -> bytes:
    """One file after the other."""
    return first + second


def motion_photo(color: Color) -> bytes:
    """The film that some phones write after the photo."""
    film = filmed(scenes(10, {4}, color), "-c:v", "libx264", "-pix_fmt", "yuv420p", out="a.mp4")
    return appended(_photo(), film)


def in_zip(color: Color) -> bytes:
    """In an archive after the picture, as it is."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.jpg", _thumbnail(color))
    return appended(encoded(scene()), body.getvalue())


def in_gap(color: Color) -> bytes:
    """After one scan and its end mark, before another end mark."""
    return appended(appended(_photo(), b"\0" * 1000), appended(_thumbnail(color), b"\xff\xd9"))


def behind_default_image(color: Color) -> bytes:
    """In the frames of an APNG, whose other picture is what old viewers show."""
    return encoded(scene(), save_all=True, default_image=True, append_images=scenes(4, {2}, color))


def as_default_image(color: Color) -> bytes:
    """That other picture itself."""
    return encoded(scene(color), save_all=True, default_image=True, append_images=scenes(4))


def after_end_of_png(color: Color) -> bytes:
    """A picture after the last chunk."""
    return appended(encoded(scene()), encoded(scene(color)))


def in_private_chunk(color: Color) -> bytes:
    """A picture in a chunk that nobody knows."""
    body = encoded(scene())
    return body[:-12] + chunk(b"prVt", _thumbnail(color)) + body[-12:]


def after_gif(color: Color) -> bytes:
    """A second GIF after the trailer."""
    return appended(encoded(scene(), "GIF"), encoded(scene(color), "GIF"))


def in_exif_of_webp(color: Color) -> bytes:
    """The camera's thumbnail, in a WebP."""
    with Image.open(io.BytesIO(in_exif(color))) as image:
        return encoded(scene(), "WEBP", exif=image.info["exif"])


PAIRS: dict[str, Make] = {
    "exif-thumbnail.jpg": in_exif,
    "exif-thumbnail.png": lambda color: in_exif(color, "png"),
    "exif-thumbnail.webp": in_exif_of_webp,
    "photoshop-thumbnail.jpg": in_photoshop,
    "jfif-thumbnail.jpg": in_jfif,
    "second-of-two.jpg": second_of_mpo,
    "jpeg-after-jpeg.jpg": lambda color: appended(_photo(), _thumbnail(color)),
    "png-after-jpeg.jpg": lambda color: appended(_photo(), encoded(scene(color))),
    "jpeg-after-a-gap.jpg": in_gap,
    "motion-photo.jpg": motion_photo,
    "zip-after-png.png": in_zip,
    "png-after-png.png": after_end_of_png,
    "private-chunk.png": in_private_chunk,
    "behind-default-image.apng": behind_default_image,
    "default-image.apng": as_default_image,
    "gif-after-gif.gif": after_gif,
}
