"""Admission: what is asked is checked against the rules and recognised when it was asked before."""

from processors.admit.policy import AdmitPolicy, Limits
from processors.admit.processor import STAGE, VERSION, Admit, AnswerDecoder

__all__ = ["STAGE", "VERSION", "Admit", "AdmitPolicy", "AnswerDecoder", "Limits"]
