"""What each stage does, and the ports it needs. No Kafka and no Faust in here."""
