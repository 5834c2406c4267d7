DROP TABLE feedback;
DROP TABLE evaluations;
