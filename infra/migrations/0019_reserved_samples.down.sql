ALTER TABLE budget_reservations DROP COLUMN samples;
