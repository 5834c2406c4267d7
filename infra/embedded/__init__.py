"""The whole stack on one machine, without Docker: broker, registry, Postgres, model and embeddings."""
