"""The Confluent wire format: a zero byte, the schema's id as 4 bytes big-endian, then the Avro body."""

from __future__ import annotations

from schemas.errors import UndecodableError

MAGIC = 0
HEADER_BYTES = 5


def header(schema_id: int) -> bytes:
    """The five bytes before the body."""
    return bytes([MAGIC]) + schema_id.to_bytes(4, "big")


def schema_id_of(frame: bytes) -> int:
    """The id of the schema that the frame's body was written with.

    Raises ``UndecodableError`` for anything that is no frame; the message quotes no byte after the header.
    """
    if len(frame) < HEADER_BYTES:
        raise UndecodableError(f"no Avro frame: {len(frame)} bytes, and a frame's header alone has {HEADER_BYTES}")
    if frame[0] != MAGIC:
        raise UndecodableError(
            f"no Avro frame: it starts with byte {frame[0]}, not 0; publish in the Confluent wire format"
        )
    return int.from_bytes(frame[1:HEADER_BYTES], "big")
