DROP TABLE mirror_calls;
DROP TABLE mirror_days;
