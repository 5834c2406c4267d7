-- What replays of enrich need: what embeddings cost them, and the index as it was.

-- What an attempt came to, also once its event is told; a run's limit counts it.
ALTER TABLE spends ADD COLUMN amount_usd numeric(38, 12);
COMMENT ON COLUMN spends.amount_usd IS 'US dollars: the upper bound while the row is open, then what its cost event says';
-- Lanes of replays alone, which are summed up; live lanes have many rows and are not.
CREATE INDEX spends_of_replays ON spends (lane) WHERE lane LIKE 'replay-%';

-- Passages that were replaced or removed stay for a while, so that a search can be made as of then. They have a table
-- of their own: live searches don't pass over them.
ALTER TABLE passages ADD COLUMN indexed_at timestamptz;
ALTER TABLE passages ALTER COLUMN indexed_at SET DEFAULT now();
COMMENT ON COLUMN passages.indexed_at IS 'Since when it is found; NULL: since before the history of the index began';
CREATE TABLE superseded_passages (
    tenant           text        NOT NULL,
    namespace        text        NOT NULL,
    document_id      text        NOT NULL,
    passage_id       text        NOT NULL,
    start_char       integer     NOT NULL,
    end_char         integer     NOT NULL,
    text             text        NOT NULL,
    digest           text        NOT NULL,
    embedding_model  text        NOT NULL,
    embedding        vector({embedding_dimension}) NOT NULL,
    metadata         jsonb       NOT NULL,
    title            text        NOT NULL,
    uri              text        NOT NULL,
    document_digest  text        NOT NULL,
    index_version    text        NOT NULL,
    indexed_at       timestamptz NOT NULL,
    superseded_at    timestamptz NOT NULL,
    superseded_by    text        NOT NULL
);
CREATE INDEX superseded_passages_of ON superseded_passages (tenant, namespace, superseded_at);
CREATE INDEX superseded_passages_superseded_at ON superseded_passages (superseded_at);
COMMENT ON TABLE superseded_passages IS 'Passages as they were found from indexed_at until superseded_at';
COMMENT ON COLUMN superseded_passages.superseded_by IS 'Index version of what took their place; empty: the document was removed';

-- As of any moment since then the index can be searched whole.
CREATE TABLE index_history (
    single  boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (single),
    since   timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO index_history DEFAULT VALUES;

-- Triggers, so that it holds whoever deletes: a worker of an older release, or an operator.
CREATE FUNCTION keep_superseded_passages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO superseded_passages (tenant, namespace, document_id, passage_id, start_char, end_char, text, digest,
        embedding_model, embedding, metadata, title, uri, document_digest, index_version, indexed_at, superseded_at,
        superseded_by)
    SELECT gone.tenant, gone.namespace, gone.document_id, gone.passage_id, gone.start_char, gone.end_char, gone.text,
        gone.digest, gone.embedding_model, gone.embedding, gone.metadata, gone.title, gone.uri, gone.document_digest,
        gone.index_version, coalesce(gone.indexed_at, '-infinity'), now(),
        CASE WHEN documents.deleted IS FALSE THEN documents.index_version ELSE '' END
    FROM gone LEFT JOIN documents USING (tenant, namespace, document_id);
    RETURN NULL;
END $$;
CREATE TRIGGER passages_superseded AFTER DELETE ON passages REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION keep_superseded_passages();
CREATE FUNCTION shorten_index_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE index_history SET since = (SELECT max(superseded_at) FROM gone)
    WHERE since < (SELECT max(superseded_at) FROM gone);
    RETURN NULL;
END $$;
CREATE TRIGGER superseded_passages_gone AFTER DELETE ON superseded_passages REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION shorten_index_history();
