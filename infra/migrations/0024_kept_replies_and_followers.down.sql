DROP TABLE batch_followers;
ALTER TABLE calls DROP COLUMN kept;
