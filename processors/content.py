"""The parts of a message: what may be in one, how it is sent, and what is wrong with one that can't be.

The forms are those of OpenAI's chat completions. A part that is no text goes to the model as it is: nothing is fetched
from its address, and its bytes are not looked at.
"""

from __future__ import annotations

import re
from typing import Any

from processors.text import inline
from schemas.errors import RefusedError
from schemas.records import ContentPart, Message

TEXT, IMAGE, AUDIO, FILE = "text", "image_url", "input_audio", "file"
_KINDS = (TEXT, IMAGE, AUDIO, FILE)
_DETAILS = ("low", "high", "auto")
# OpenAI's names for the sound formats that it takes.
_SOUNDS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
_URL = re.compile(r"https://[!-~]{1,2048}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-zA-Z0-9.+-]{1,100}")
_FILE_CHARS = 255


def only_text(message: Message) -> bool:
    """Whether all of the message's parts are texts."""
    return all(part.type == TEXT for part in message.content)


def check_parts(message: Message, field: str) -> int:
    """Check every part that is no text; how many characters of data they hold.

    Raises ``RefusedError`` naming the field.
    """
    size = 0
    for number, part in enumerate(message.content):
        path = f"{field}.content[{number}]"
        if part.type not in _KINDS:
            raise RefusedError(
                "unsupported_content", f"{path}.type: must be one of {', '.join(_KINDS)}", field=f"{path}.type"
            )
        if part.type == TEXT:
            continue
        if message.role != "user":
            raise _refused(f"{path}.type", "only a message of role user holds parts that are no text")
        size += _check_part(part, path)
    return size


def sent_parts(message: Message, field: str) -> list[dict[str, Any]]:
    """The message's content as it is sent, part by part. Raises ``RefusedError`` for a text that can't be read."""
    return [_sent(part, f"{field}.content[{number}]") for number, part in enumerate(message.content)]


def _check_part(part: ContentPart, path: str) -> int:
    if part.type == IMAGE and part.url is not None:
        if part.data is not None:
            raise _refused(f"{path}.url", "set either url or data, not both")
        if _URL.fullmatch(part.url) is None:
            raise _refused(f"{path}.url", "must be an https address of at most 2048 printable characters")
    elif part.url is not None:
        raise _refused(f"{path}.url", "only an image_url has an address; set data")
    if part.detail is not None and (part.type != IMAGE or part.detail not in _DETAILS):
        raise _refused(f"{path}.detail", f"must be one of {', '.join(_DETAILS)}, for an image")
    if part.file_name is not None and not (0 < len(part.file_name) <= _FILE_CHARS and part.file_name.isprintable()):
        raise _refused(f"{path}.file_name", f"must be 1 to {_FILE_CHARS} printable characters")
    return 0 if part.url is not None else _check_data(part, path)


def _check_data(part: ContentPart, path: str) -> int:
    if part.data is None:
        raise _refused(f"{path}.data", "must be set to the bytes, as base64")
    data, kind = inline(part.data, f"{path}.data"), part.media_type or ""
    if len(data) % 4 or _BASE64.fullmatch(data) is None:
        raise _refused(f"{path}.data", "must be base64 with padding, without line breaks")
    if part.type == AUDIO and kind not in _SOUNDS:
        raise _refused(f"{path}.media_type", f"must be one of {', '.join(_SOUNDS)}")
    if _MEDIA_TYPE.fullmatch(kind) is None or (part.type == IMAGE and not kind.startswith("image/")):
        raise _refused(f"{path}.media_type", "must be the media type of the data, e.g. image/png or application/pdf")
    return len(data)


def _sent(part: ContentPart, path: str) -> dict[str, Any]:
    if part.type == TEXT:
        if part.text is None:
            raise _refused(f"{path}.text", "a part of type text needs one")
        return {"type": TEXT, "text": inline(part.text, f"{path}.text")}
    if part.type == IMAGE:
        address = part.url if part.url is not None else _data_url(part, path)
        return {"type": IMAGE, IMAGE: {"url": address} | ({"detail": part.detail} if part.detail else {})}
    if part.type == AUDIO:
        data = inline(part.data, f"{path}.data") if part.data is not None else ""
        return {"type": AUDIO, AUDIO: {"data": data, "format": _SOUNDS.get(part.media_type or "", "wav")}}
    named = {"filename": part.file_name} if part.file_name else {}
    return {"type": FILE, FILE: {"file_data": _data_url(part, path), **named}}


def _data_url(part: ContentPart, path: str) -> str:
    data = inline(part.data, f"{path}.data") if part.data is not None else ""
    return f"data:{part.media_type or ''};base64,{data}"


def _refused(field: str, message: str) -> RefusedError:
    return RefusedError("invalid_request", f"{field}: {message}", field=field)
