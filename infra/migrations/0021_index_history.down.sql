DROP TRIGGER passages_superseded ON passages;
DROP TABLE superseded_passages;
DROP FUNCTION keep_superseded_passages();
DROP FUNCTION shorten_index_history();
DROP TABLE index_history;
ALTER TABLE passages DROP COLUMN indexed_at;
DROP INDEX spends_of_replays;
ALTER TABLE spends DROP COLUMN amount_usd;
