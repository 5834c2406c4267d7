"""Recorded events as files for analysts, and back into a lane of another cluster."""
