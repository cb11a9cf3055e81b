"""Pictures beside the picture: the purple is where no browser looks, or where only some do."""

import base64
import io
import struct
import zipfile
import zlib
from functools import partial

from PIL import Image

from tests.media.samples.animations import animated
from tests.media.samples.boxes import box, film
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


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def in_segments(marker: int, head: bytes, body: bytes, size: int = 60_000) -> bytes:
    """In as many segments of a photo as it takes, each with the same head."""
    photo = _photo()
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return photo[:2] + b"".join(segment(marker, head + part) for part in parts) + photo[2:]


def written_out(color: Color, kind: str) -> bytes:
    """In XMP, as text."""
    body = b"<x:xmpmeta><image>" + base64.encodebytes(encoded(scene(color), kind)) + b"</image>"
    return in_segments(0xE1, b"http://ns.adobe.com/xap/1.0/\0", body)


def in_two_profiles(color: Color) -> bytes:
    """In what says that it is a color profile, half in each of two segments."""
    body = bytes(128) + _thumbnail(color)
    return in_segments(0xE2, b"ICC_PROFILE\0\1\2", body, len(body) // 2 + 1)


def in_text_of_png(color: Color) -> bytes:
    """In a text chunk, compressed."""
    body = encoded(scene())
    text = b"Comment\0\0" + zlib.compress(encoded(scene(color), "WEBP", lossless=True) + bytes(99))
    return body[:-12] + chunk(b"zTXt", text) + body[-12:]


def packed_in_zip(color: Color) -> bytes:
    """In an archive after the picture, compressed."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", encoded(scene(color), compress_level=0))
    return appended(_photo(), body.getvalue())


def in_blocks(body: bytes) -> bytes:
    """As a GIF has data: up to 255 bytes at a time."""
    parts = [body[at : at + 255] for at in range(0, len(body), 255)]
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def in_extension(color: Color, head: bytes) -> bytes:
    """In an extension of a GIF, before its image."""
    body = encoded(scene(), "GIF")
    at = body.index(b",\0\0\0\0")
    return body[:at] + head + in_blocks(_thumbnail(color)) + body[at:]


def behind_pixels_of_gif(color: Color) -> bytes:
    """In the blocks of an image, after those that it needs."""
    return encoded(scene(), "GIF")[:-2] + in_blocks(_thumbnail(color)) + b";"


def instead_of_gif_trailer(color: Color) -> bytes:
    """After the last image of a GIF that does not say that it ends there.

    Nothing in it looks like a block of a GIF.
    """
    possible = (encoded(Image.new("RGB", (side, side), color)) for side in range(64, 128))
    hidden = next(body for body in possible if not {*b",!;"} & {*body})
    return encoded(scene(), "GIF")[:-1] + hidden


def webp_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a WebP, padded."""
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) & 1)


def _webp(*chunks: bytes) -> bytes:
    body = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def in_profile_of_webp(color: Color) -> bytes:
    """In what says that it is a color profile."""
    return encoded(scene(), "WEBP", icc_profile=bytes(128) + _thumbnail(color))


def behind_pixels_of_webp(color: Color, *, lossless: bool) -> bytes:
    """In the chunk that has the pixels, after them."""
    body = encoded(scene(), "WEBP", lossless=lossless)
    return _webp(webp_chunk(body[12:16], body[20:] + _thumbnail(color)))


def in_frame_of_webp(color: Color) -> bytes:
    """In a chunk that nobody knows, within a frame of an animation."""
    body = animated(scenes(2), "WEBP", minimize_size=False)
    at = body.index(b"ANMF")
    end = at + 8 + int.from_bytes(body[at + 4 : at + 8], "little")
    frame = webp_chunk(b"ANMF", body[at + 8 : end] + webp_chunk(b"prVt", _thumbnail(color)))
    return _webp(body[12:at], frame, body[end:])


def behind_pixels_of_png(color: Color, *, size: tuple[int, int] = (160, 120)) -> bytes:
    """After the compressed pixels, in the same chunk."""
    pixels = zlib.compress((b"\0" + bytes((200, 220, 200)) * size[0]) * size[1], 0)
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", pixels + _thumbnail(color))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def behind_pixels_of_apng(color: Color) -> bytes:
    """The same of a frame."""
    body = animated(scenes(3), "PNG")
    at = body.rindex(b"fdAT") - 4
    end = at + 12 + int.from_bytes(body[at : at + 4], "big")
    return body[:at] + chunk(b"fdAT", body[at + 8 : end - 4] + _thumbnail(color)) + body[end:]


def behind_palette(color: Color) -> bytes:
    """After all colors that a palette can have."""
    body = encoded(scene().quantize(256))
    at = body.index(b"PLTE") - 4
    end = at + 12 + int.from_bytes(body[at : at + 4], "big")
    palette = body[at + 8 : end - 4].ljust(768, b"\0")
    return body[:at] + chunk(b"PLTE", palette + _thumbnail(color)) + body[end:]


def in_end_of_png(color: Color) -> bytes:
    """In the chunk that ends the file, which is empty in others."""
    return encoded(scene())[:-12] + chunk(b"IEND", _thumbnail(color))


def after_broken_png(color: Color) -> bytes:
    """After the pixels of a file that says nowhere that it ends."""
    return encoded(scene())[:-12] + bytes(8) + _thumbnail(color)


def before_end_mark(color: Color) -> bytes:
    """After the data of a scan, whose end mark is that of the second picture."""
    return appended(_photo()[:-2], _thumbnail(color))


def bare_codestream(color: Color) -> bytes:
    """A JPEG XL without a container after a JPEG."""
    return appended(_photo(), encoded(scene(color), "JXL"))


def in_box_of_jxl(color: Color) -> bytes:
    """In a box before the picture of a JPEG XL."""
    start = b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    return start + box(b"xml ", _thumbnail(color)) + box(b"jxlc", encoded(scene(), "JXL"))


def after_avif(color: Color) -> bytes:
    """After the last box of an AVIF."""
    return appended(encoded(scene(), "AVIF", speed=10), _thumbnail(color))


PAIRS: dict[str, Make] = {
    "written-out-jpeg.jpg": partial(written_out, kind="JPEG"),
    "written-out-png.jpg": partial(written_out, kind="PNG"),
    "in-two-profiles.jpg": in_two_profiles,
    "in-adobe-segment.jpg": lambda color: in_segments(
        0xEE, b"Adobe\0d\0\0\0\0\0", _thumbnail(color)
    ),
    "in-comment.jpg": lambda color: in_segments(0xFE, b"", encoded(scene(color), "WEBP")),
    "compressed-text.png": in_text_of_png,
    "zip-deflated-after-jpeg.jpg": packed_in_zip,
    "before-end-mark.jpg": before_end_mark,
    "jxl-after-jpeg.jpg": bare_codestream,
    "box-of-jxl.jxl": in_box_of_jxl,
    "in-comment.gif": partial(in_extension, head=b"!\xfe"),
    "in-application.gif": partial(in_extension, head=b"!\xff\x0bACME    1.0"),
    "in-control.gif": partial(in_extension, head=b"!\xf9\x04\0\0\0\0"),
    "behind-pixels.gif": behind_pixels_of_gif,
    "no-trailer.gif": instead_of_gif_trailer,
    "in-profile.webp": in_profile_of_webp,
    "behind-lossy-pixels.webp": partial(behind_pixels_of_webp, lossless=False),
    "behind-lossless-pixels.webp": partial(behind_pixels_of_webp, lossless=True),
    "in-frame.webp": in_frame_of_webp,
    "behind-pixels.png": behind_pixels_of_png,
    "behind-many-pixels.png": partial(behind_pixels_of_png, size=(640, 480)),
    "behind-pixels.apng": behind_pixels_of_apng,
    "behind-palette.png": behind_palette,
    "in-end.png": in_end_of_png,
    "after-broken.png": after_broken_png,
    "jpeg-after-film.mp4": lambda color: appended(film(scenes(4)), _thumbnail(color)),
    "free-box.mp4": lambda color: appended(film(scenes(4)), box(b"free", _thumbnail(color))),
    "jpeg-after-avif.avif": after_avif,
    "jpeg-after-webp.webp": lambda color: appended(encoded(scene(), "WEBP"), _thumbnail(color)),
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
