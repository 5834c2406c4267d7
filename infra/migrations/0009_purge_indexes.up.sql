-- What the purge job finds its rows by. The space of purged rows is used again for new ones, so that after the first
-- passes a table is no longer in the order of time and BRIN indexes no longer tell where its old rows are.
DROP INDEX idempotency_reserved_at;
DROP INDEX finals_decided_at;
CREATE INDEX idempotency_reserved_at ON idempotency (reserved_at);
CREATE INDEX finals_decided_at ON finals (decided_at);
CREATE INDEX calls_created_at ON calls (created_at);
CREATE INDEX pending_vectors_created_at ON pending_vectors (created_at);
CREATE INDEX documents_tombstones ON documents (indexed_at) WHERE deleted;
