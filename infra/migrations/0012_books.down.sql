DROP TABLE rerates;
ALTER TABLE ledger
    DROP COLUMN price_version,
    DROP COLUMN error_code,
    DROP COLUMN correction,
    DROP COLUMN usage_details;
ALTER TABLE attempts DROP COLUMN usage_details;
