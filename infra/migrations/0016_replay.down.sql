DROP TABLE replay_answers;
DROP TABLE replay_places;
DROP TABLE replay_runs;
