"""Measurements, run by hand or by make bench; no test of the suite."""
