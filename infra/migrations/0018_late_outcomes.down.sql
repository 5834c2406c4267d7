ALTER TABLE attempts
    DROP COLUMN unknown_code,
    DROP COLUMN unknown_duration_ms;
