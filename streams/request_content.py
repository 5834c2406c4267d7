"""Parts of a message as OpenAI writes them, to those of an event."""

from __future__ import annotations

from schemas.records import ContentPart, Text
from streams.request_form import BadRequestLineError, PartForm

_SOUNDS = {"wav": "audio/wav", "mp3": "audio/mpeg"}


def content_part(read: PartForm) -> ContentPart:
    """The part. What it holds is checked by admission. Raises ``BadRequestLineError`` for a broken data address."""
    if read.image_url is not None:
        url, detail = read.image_url.url, read.image_url.detail
        if not url.startswith("data:"):
            return ContentPart(type=read.type, url=url, detail=detail)
        media_type, data = _parted(url, "image_url.url")
        return ContentPart(type=read.type, data=data, media_type=media_type, detail=detail)
    if read.input_audio is not None:
        sound = read.input_audio
        return ContentPart(type=read.type, data=Text(inline=sound.data), media_type=_SOUNDS[sound.format])
    if read.file is not None:
        media_type, data = _parted(read.file.file_data, "file.file_data")
        return ContentPart(type=read.type, data=data, media_type=media_type, file_name=read.file.filename)
    return ContentPart(type=read.type, text=Text(inline=read.text))


def _parted(url: str, field: str) -> tuple[str, Text]:
    """The media type and the base64 of a data address (RFC 2397)."""
    head, comma, data = url.removeprefix("data:").partition(",")
    media_type, _, encoding = head.rpartition(";")
    if not url.startswith("data:") or not comma or encoding != "base64":
        raise BadRequestLineError([f"messages: {field}: must be data:<media type>;base64,<data>"])
    return media_type, Text(inline=data)
