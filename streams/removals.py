"""A document's removal by a record without a value: the id is the key, tenant and namespace are headers."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.errors import UndecodableError
from schemas.ids import derive_id
from schemas.records import Document, Meta
from streams.headers import header

TENANT_HEADER = "headrace-tenant"
NAMESPACE_HEADER = "headrace-namespace"


def removal_of(
    key: bytes | None, headers: Iterable[tuple[str, bytes]] | None, *, partition: int, offset: int, lane: str
) -> Document:
    """The removal that such a record is. Raises ``UndecodableError`` for one that names no document."""
    try:
        names = (TENANT_HEADER, NAMESPACE_HEADER)
        given = list(headers or ())
        found = {name: (header(given, name) or b"").decode() for name in names}
    except UnicodeDecodeError:
        raise UndecodableError("a tombstone's headers are no UTF-8; write tenant and namespace as text") from None
    missing = [name for name, value in found.items() if not value]
    if missing or not key:
        what = ", ".join([*missing, *([] if key else ["the key"])])
        raise UndecodableError(f"a tombstone needs the document's id as its key and headers: {what} is missing")
    document_id = key.decode("utf-8", "replace")
    tenant, namespace = found[TENANT_HEADER], found[NAMESPACE_HEADER]
    meta = Meta(
        event_id=derive_id("tombstone", tenant, namespace, document_id, partition, offset),
        request_id="",
        tenant=tenant,
        lane=lane,
        stage="producer",
    )
    return Document(meta=meta, document_id=document_id, namespace=namespace, deleted=True)
