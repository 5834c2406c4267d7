-- An attempt's first cost event is told with the same bytes after a late outcome, whatever it was first booked with.
ALTER TABLE attempts
    ADD COLUMN unknown_code        text,
    ADD COLUMN unknown_duration_ms double precision;
COMMENT ON COLUMN attempts.unknown_code IS 'Error code that the attempt was booked unknown with, before its late outcome';
COMMENT ON COLUMN attempts.unknown_duration_ms IS 'Duration that it was booked unknown with; NULL where nobody saw one';
