DROP TABLE prompts;
DROP TABLE pending_vectors;
DROP TABLE passages;
DROP TABLE documents;
