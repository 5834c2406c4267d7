DROP TABLE provider_use;
