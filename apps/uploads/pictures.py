"""Thumbnails, made by Pillow from a file that a stranger sent.

What is limited: the formats (three decoders, not Pillow's forty), the pixels (read from the header, before a single one
is decoded) and what is passed on (pixels only: no EXIF, so no place of the photograph).
"""

import io
import struct

from PIL import Image, ImageOps

from apps.uploads.kinds import UploadRejected

FORMATS = ("JPEG", "PNG", "WEBP")
# 40 megapixels is more than a phone's photo, and 160 MB decoded: well under a worker's limit.
MAX_PIXELS = 40_000_000
# The list shows the small one, the page the large one; both for screens with two pixels a point.
THUMBNAIL_SIDES = (160, 640)
# 640 by 640 pixels as WebP have 200 kB at the very most.
MAX_THUMBNAIL_BYTES = 1024 * 1024
# Pillow's own net, for whatever is decoded anywhere in this process.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# All that Pillow's decoders raise for a broken file. It has no base class of its own.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error)


def thumbnails(content: bytes) -> dict[int, bytes]:
    """Return one WebP a side length, upright. Raises `UploadRejected` for what is no picture, or too large a one."""
    return {side: _thumbnail(content, side) for side in THUMBNAIL_SIDES}


def thumbnail_key(upload_key: str, side: int) -> str:
    """Return where a thumbnail is kept: always the same place, so that making it again replaces it."""
    return f"{upload_key}.{side}.webp"


def _thumbnail(content: bytes, side: int) -> bytes:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise _too_large()
            # In this order: shrinking first lets the JPEG decoder skip most of the work, and keeps the memory small.
            picture.thumbnail((side, side))
            return _as_webp(ImageOps.exif_transpose(picture))
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except BROKEN as error:
        raise UploadRejected("This picture is damaged or cut off and cannot be read. Please send it again.") from error


def _too_large() -> UploadRejected:
    return UploadRejected(
        f"This picture has more than {MAX_PIXELS // 1_000_000} million pixels. Please make it smaller."
    )


def _as_webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.convert("RGBA" if picture.has_transparency_data else "RGB").save(out, "WEBP", quality=80)
    return out.getvalue()
