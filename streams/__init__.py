"""How stages run: settings, delivery, the stage runner, topics, workers and the command line."""
