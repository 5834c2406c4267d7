"""The stage that asks a model: enrichments in, completions and costs out; every call goes through the journal."""

STAGE = "complete"
VERSION = "1"
