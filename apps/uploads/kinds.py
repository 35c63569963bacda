"""What a file may be, judged by name, declared type and first bytes together. Used by the form and again by the task.

Never SVG: it is a program, not a picture.
"""

from dataclasses import dataclass

from apps.uploads.models import Upload

# A product list of 50,000 rows has 3 MB and a phone's photo 5 MB; twice that is generous, and still fits in memory.
MAX_BYTES = 10 * 1024 * 1024
# As many first bytes as the signatures below need.
HEAD = 16
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
NOT_UTF_8 = "This list is not in UTF-8. In the spreadsheet choose “CSV UTF-8” when saving, and upload it again."


class UploadRejected(Exception):
    """The file will never pass. The message is shown to the shopkeeper who sent it."""


@dataclass(frozen=True)
class FileType:
    kind: Upload.Kind
    extensions: tuple[str, ...]
    content_types: tuple[str, ...]


FILE_TYPES = (
    # Windows with a spreadsheet installed calls a CSV a spreadsheet, and others call it plain text.
    FileType(Upload.Kind.CSV, ("csv",), ("text/csv", "application/csv", "application/vnd.ms-excel", "text/plain")),
    FileType(Upload.Kind.PICTURE, ("jpg", "jpeg"), ("image/jpeg",)),
    FileType(Upload.Kind.PICTURE, ("png",), ("image/png",)),
    FileType(Upload.Kind.PICTURE, ("webp",), ("image/webp",)),
)
ACCEPT = ",".join(f".{extension}" for file_type in FILE_TYPES for extension in file_type.extensions)


def check_size(size: int) -> None:
    if size == 0:
        raise UploadRejected("This file is empty (0 bytes).")
    if size > MAX_BYTES:
        raise UploadRejected(f"This file has {size / 1024**2:.1f} MB; at most {MAX_BYTES // 1024**2} MB are allowed.")


def declared_kind(name: str, content_type: str | None) -> Upload.Kind:
    """Return the kind that a file's name and its declared content type agree on, or refuse it."""
    extension = name.rpartition(".")[2].lower()
    declared = (content_type or "").partition(";")[0].strip().lower()
    for file_type in FILE_TYPES:
        if extension in file_type.extensions and declared in file_type.content_types:
            return file_type.kind
        if extension in file_type.extensions:
            raise UploadRejected(f"This file is called .{extension}, but it was sent as another type of file.")
    raise UploadRejected("Only product lists (.csv) and pictures (.jpg, .png, .webp) can be uploaded.")


def check_content(kind: str, head: bytes) -> None:
    """Refuse a file whose first bytes are not what its kind promises."""
    if kind == Upload.Kind.PICTURE and not _is_picture(head):
        raise UploadRejected("This is not a picture: its content is neither JPEG, PNG nor WebP.")
    if kind == Upload.Kind.CSV and head.startswith(UTF_16_MARKS):
        raise UploadRejected(NOT_UTF_8)
    if kind == Upload.Kind.CSV and (_is_picture(head) or b"\0" in head):
        raise UploadRejected("This is not a product list: its content is not text.")


def _is_picture(head: bytes) -> bool:
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return webp or head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))
