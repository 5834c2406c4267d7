"""Lineage events in OpenLineage form: what a run reads, writes and changes, told to a catalogue. Optional."""
