DROP TABLE tombstones;
DROP TABLE seals;
