"""Items and batches in Postgres: tables ``batches``, ``batch_items``, ``batch_followers`` and ``batch_collectors``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from processors.batchapi import sql
from processors.batchapi.entry import IN_BATCH, Batch, BatchState, Claimed, Figures, Item, ItemState, Waiting
from processors.journal.entry import CallKey
from processors.postgres import Connection, Database

_FIRST = "00000000-0000-0000-0000-000000000000"


class PostgresBatches:
    """A ``BatchStore`` that every worker shares."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def item(self, call_id: str) -> Item | None:
        rows = await self._database.execute(sql.ITEM, {"call_id": call_id})
        return _item(rows[0]) if rows else None

    async def add(self, item: Item) -> None:
        key = item.key
        parameters = {
            "call_id": item.call_id,
            "tenant": key.tenant,
            "lane": key.lane,
            "run": key.run,
            "request_id": key.request_id,
            "deployment": item.deployment,
            "route": item.route,
            "event_id": item.event_id,
            "input": item.input,
            "control_offset": item.control_offset,
            "expires_at": item.expires_at,
        }
        await self._database.execute(sql.ADD, parameters)

    async def move(self, call_id: str, *, was: ItemState, now: ItemState) -> bool:
        parameters = {"call_id": call_id, "was": was, "now": now}
        return bool(await self._database.execute(sql.MOVE, parameters))

    async def follow(self, leader: str, key: CallKey, event_id: str) -> bool:
        parameters = {
            "call_id": key.call_id,
            "leader": leader,
            "lane": key.lane,
            "run": key.run,
            "event_id": event_id,
            "states": list(IN_BATCH),
        }
        return bool(await self._database.execute(sql.FOLLOW, parameters))

    async def followed(self, call_id: str) -> str | None:
        rows = await self._database.execute(sql.FOLLOWED, {"call_id": call_id})
        return str(rows[0][0]) if rows else None

    async def lead(self, lane: str, deployment: str, owner: str, *, hold_s: float) -> bool:
        parameters = {"lane": lane, "deployment": deployment, "owner": owner, "hold_s": hold_s}
        return bool(await self._database.execute(sql.LEAD, parameters))

    async def waiting(self, lane: str, deployment: str, *, limit: int, but: Collection[str]) -> Waiting:
        parameters = {"lane": lane, "deployment": deployment, "limit": limit, "but": list(but)}
        ((items, size, oldest_s),) = await self._database.execute(sql.WAITING, parameters)
        return Waiting(items=items, size=size, oldest_s=oldest_s)

    async def begin(
        self, batch_id: str, lane: str, deployment: str, *, limit: int, max_bytes: int, but: Collection[str]
    ) -> int:
        parameters = {
            "batch_id": batch_id,
            "lane": lane,
            "deployment": deployment,
            "limit": limit,
            "max_bytes": max_bytes,
            "but": list(but),
        }

        async def work(connection: Connection) -> int:
            await connection.execute(sql.BEGIN, parameters)
            taken = len(await (await connection.execute(sql.TAKE, parameters)).fetchall())
            if not taken:
                await connection.execute("DELETE FROM batches WHERE batch_id = %(batch_id)s", parameters)
            return taken

        return await self._database.run(work)

    async def unfinished(self, lane: str, deployment: str) -> Sequence[Batch]:
        rows = await self._database.execute(sql.UNFINISHED, {"lane": lane, "deployment": deployment})
        return [_batch(row) for row in rows]

    async def items(self, batch_id: str, state: ItemState, *, limit: int, after: str = "") -> Sequence[Item]:
        parameters = {"batch_id": batch_id, "state": state, "limit": limit, "after": after or _FIRST}
        return [_item(row) for row in await self._database.execute(sql.ITEMS, parameters)]

    async def claimed(self, batch_id: str, calls: Sequence[Claimed]) -> None:
        parameters = {
            "batch_id": batch_id,
            "calls": [one.call_id for one in calls],
            "attempts": [one.attempt_id for one in calls],
            "epochs": [one.epoch for one in calls],
            "inputs": [one.input for one in calls],
        }
        await self._database.execute(sql.CLAIMED, parameters)

    async def release(self, batch_id: str, call_ids: Sequence[str], *, wait_s: float | None) -> None:
        parameters = {"batch_id": batch_id, "calls": list(call_ids), "wait_s": wait_s}
        await self._database.execute(sql.RETURN if wait_s is None else sql.WAIT, parameters)

    async def advance(
        self,
        batch: Batch,
        state: BatchState,
        *,
        provider_file: str | None = None,
        provider_batch: str | None = None,
        provider_status: str | None = None,
    ) -> None:
        parameters = {
            "batch_id": batch.batch_id,
            "state": state,
            "provider_file": provider_file,
            "provider_batch": provider_batch,
            "provider_status": provider_status,
        }
        await self._database.execute(sql.ADVANCE, parameters)

    async def looked(self, batch: Batch, status: str) -> None:
        await self._database.execute(sql.LOOKED, {"batch_id": batch.batch_id, "status": status})

    async def answer(self, batch_id: str, replies: Mapping[str, bytes]) -> int:
        parameters = {"batch_id": batch_id, "calls": list(replies), "replies": list(replies.values())}
        return len(await self._database.execute(sql.ANSWER, parameters))

    async def late(self, lane: str, deployment: str, *, limit: int) -> Sequence[Item]:
        parameters = {"lane": lane, "deployment": deployment, "limit": limit}
        return [_item(row) for row in await self._database.execute(sql.LATE, parameters)]

    async def wake(self, lane: str) -> int:
        return len(await self._database.execute(sql.WAKE, {"lane": lane}))

    async def figures(self, lane: str, deployment: str) -> Figures:
        rows = await self._database.execute(sql.FIGURES, {"lane": lane, "deployment": deployment})
        open_, items, oldest_s = rows[0]
        return Figures(open_, items, oldest_s)


def _item(row: tuple[Any, ...]) -> Item:
    (tenant, lane, run, request_id, deployment, route, event_id, data, offset, expires_at, state, batch_id, attempt_id,
     epoch, reply, sent_at, replied_at) = row  # fmt: skip
    return Item(
        key=CallKey(tenant=tenant, lane=lane, run=run, request_id=request_id),
        deployment=deployment,
        route=route,
        event_id=event_id,
        input=bytes(data),
        control_offset=offset,
        expires_at=expires_at,
        state=state,
        batch_id=None if batch_id is None else str(batch_id),
        attempt_id=None if attempt_id is None else str(attempt_id),
        epoch=epoch,
        reply=None if reply is None else bytes(reply),
        sent_at=sent_at,
        replied_at=replied_at,
    )


def _batch(row: tuple[Any, ...]) -> Batch:
    batch_id, lane, deployment, state, file, batch, status, creating_s, open_s, looked_s = row
    return Batch(
        batch_id=str(batch_id),
        lane=lane,
        deployment=deployment,
        state=state,
        provider_file=file,
        provider_batch=batch,
        provider_status=status,
        since_creating_s=creating_s,
        since_open_s=open_s,
        since_looked_s=looked_s,
    )
