DROP TABLE redrives;
DROP TABLE dead_letters;
