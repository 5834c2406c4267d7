-- What waits here is nowhere else: an event that was set aside must not be dropped with the table.
DO $$
BEGIN
    IF EXISTS (SELECT FROM deferred) THEN
        RAISE EXCEPTION 'deferred holds events; resume what is paused and let workers put them back first';
    END IF;
END
$$;
DROP TABLE deferred;
