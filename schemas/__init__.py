"""The contracts: Avro schemas, their Python types, the codec and compatibility rules."""
