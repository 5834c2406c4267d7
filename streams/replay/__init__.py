"""Replay: stages run once more over what was recorded, into a lane of the run's own.

``plan`` decides what is read, ``runs`` keeps what is to be done and how far it is, ``conduct`` leads a run from its
start to its end, and ``step`` puts the events of one stage through its processor.
"""
