"""The filter: nothing that it has not seen reaches a consumer."""

from processors.filter.cleaning import clean
from processors.filter.policy import FilterPolicy
from processors.filter.processor import STAGE, VERSION, Filter

__all__ = ["STAGE", "VERSION", "Filter", "FilterPolicy", "clean"]
