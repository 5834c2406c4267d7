-- Documents, the passages cut from them, and prompt templates.
CREATE EXTENSION IF NOT EXISTS vector;

-- One row a document, kept as a tombstone after its removal, so that an older version that is delivered again
-- can't bring it back.
CREATE TABLE documents (
    tenant          text        NOT NULL,
    namespace       text        NOT NULL,
    document_id     text        NOT NULL,
    digest          text        NOT NULL, -- sha256 of the body, as hex; empty for a tombstone
    content_digest  text        NOT NULL, -- of body, title, uri, language and metadata together
    index_version   text        NOT NULL,
    title           text        NOT NULL,
    uri             text        NOT NULL,
    passage_count   integer     NOT NULL,
    deleted         boolean     NOT NULL,
    lane            text        NOT NULL, -- where the record stood: order within a partition is by offset,
    partition       integer     NOT NULL, -- across partitions and lanes by the broker's append time
    "offset"        bigint      NOT NULL,
    appended_at     timestamptz NOT NULL,
    indexed_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, namespace, document_id)
);

CREATE TABLE passages (
    passage_id       text    NOT NULL PRIMARY KEY,
    tenant           text    NOT NULL,
    namespace        text    NOT NULL,
    document_id      text    NOT NULL,
    ordinal          integer NOT NULL,
    start_char       integer NOT NULL,
    end_char         integer NOT NULL,
    text             text    NOT NULL,
    digest           text    NOT NULL, -- sha256 of the text, as hex
    embedded_digest  text    NOT NULL, -- sha256 of what was embedded (the title may go with it), as hex
    embedding_model  text    NOT NULL,
    embedding        vector({embedding_dimension}) NOT NULL,
    metadata         jsonb   NOT NULL,
    title            text    NOT NULL,
    uri              text    NOT NULL,
    document_digest  text    NOT NULL,
    index_version    text    NOT NULL,
    UNIQUE (tenant, namespace, document_id, ordinal),
    FOREIGN KEY (tenant, namespace, document_id) REFERENCES documents ON DELETE CASCADE
);
CREATE INDEX passages_embedding ON passages USING hnsw (embedding vector_cosine_ops);

-- Vectors bought for a document whose passages are not replaced yet: a retry goes on where the last attempt ended.
CREATE TABLE pending_vectors (
    tenant           text        NOT NULL,
    namespace        text        NOT NULL,
    document_id      text        NOT NULL,
    embedding_model  text        NOT NULL,
    embedded_digest  text        NOT NULL,
    embedding        vector({embedding_dimension}) NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, namespace, document_id, embedding_model, embedded_digest)
);

-- Templates are content-addressed: a name's version is never changed.
CREATE TABLE prompts (
    name        text        NOT NULL,
    version     integer     NOT NULL CHECK (version > 0),
    digest      text        NOT NULL, -- sha256 of the template, as hex
    template    text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version),
    UNIQUE (name, digest)
);
