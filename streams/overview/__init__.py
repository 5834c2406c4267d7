"""How a lane does, from outside its workers: the broker says what waits, Postgres what the workers report."""
