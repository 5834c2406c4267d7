"""Kills workers under load, and accounts for every request and every paid call from outside the system."""
