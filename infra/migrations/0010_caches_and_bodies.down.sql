DROP TABLE bodies;
DROP TABLE cache_vectors;
DROP TABLE cache_entries;
