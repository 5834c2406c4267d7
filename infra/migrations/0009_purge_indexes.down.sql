DROP INDEX documents_tombstones;
DROP INDEX pending_vectors_created_at;
DROP INDEX calls_created_at;
DROP INDEX finals_decided_at;
DROP INDEX idempotency_reserved_at;
CREATE INDEX idempotency_reserved_at ON idempotency USING brin (reserved_at);
CREATE INDEX finals_decided_at ON finals USING brin (decided_at);
