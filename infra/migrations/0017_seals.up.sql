-- Seals: what a partition held, as a Merkle root over its records, each seal naming the one before it.
CREATE TABLE seals (
    topic        text NOT NULL,
    partition    integer NOT NULL,
    number       bigint NOT NULL CHECK (number >= 0),
    topic_id     text NOT NULL,
    from_offset  bigint NOT NULL,
    to_offset    bigint NOT NULL,
    records      integer NOT NULL CHECK (records > 0),
    first_at     timestamptz NOT NULL,
    last_at      timestamptz NOT NULL,
    root         bytea NOT NULL,
    previous     bytea NOT NULL,
    seal         bytea NOT NULL,
    leaves       bytea,
    offsets      bytea,
    sealed_at    timestamptz NOT NULL,
    PRIMARY KEY (topic, partition, number),
    CHECK (to_offset >= from_offset)
);
CREATE INDEX seals_last_at ON seals (last_at);
COMMENT ON TABLE seals IS 'Hash chains over partitions; a seal follows from the one before it and from its records';
COMMENT ON COLUMN seals.topic_id IS 'The broker''s id of the topic: one that was made again has another';
COMMENT ON COLUMN seals.from_offset IS 'First offset that was looked at; every record from here to to_offset is in the tree';
COMMENT ON COLUMN seals.first_at IS 'Broker''s time of the first record';
COMMENT ON COLUMN seals.root IS 'Merkle root over the records'' hashes, as RFC 6962 has it (sha256)';
COMMENT ON COLUMN seals.previous IS 'The seal before; 32 zero bytes for the first';
COMMENT ON COLUMN seals.seal IS 'sha256 over previous, root and what the other columns say';
COMMENT ON COLUMN seals.leaves IS 'The records'' hashes, 32 bytes each; null once the records have gone by retention';
COMMENT ON COLUMN seals.offsets IS 'Distance of each record from from_offset, 4 bytes each; null where none is missing';

-- Records that were removed on purpose, by their hash: what is gone with a tombstone is erased, and not lost.
CREATE TABLE tombstones (
    number       bigint PRIMARY KEY CHECK (number >= 0),
    topic        text NOT NULL,
    partition    integer NOT NULL,
    "offset"     bigint NOT NULL,
    leaf         bytea NOT NULL,
    request_id   text NOT NULL,
    reason       text NOT NULL,
    author       text NOT NULL,
    erased_at    timestamptz NOT NULL,
    previous     bytea NOT NULL,
    hash         bytea NOT NULL
);
CREATE INDEX tombstones_place ON tombstones (topic, partition, "offset");
CREATE INDEX tombstones_request ON tombstones (request_id);
COMMENT ON TABLE tombstones IS 'Records that were removed on purpose: who, why, and the hash that was sealed; a hash chain of its own';
COMMENT ON COLUMN tombstones.leaf IS 'Hash of the record, as it is in the seal over it';
