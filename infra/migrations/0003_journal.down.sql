DROP TABLE attempts;
DROP TABLE calls;
