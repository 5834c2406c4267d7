"""The stage that asks a model: enrichments in, completions and costs out; every call goes through the journal."""

STAGE = "complete"
VERSION = "1"
# Purpose of the calls that a request is fanned out to.
SAMPLE = "sample"
