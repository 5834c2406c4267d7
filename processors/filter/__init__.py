"""The filter: nothing that it has not seen reaches a consumer.

The release cuts with this package's patterns, and the filter compares with what the release cuts: so nothing is
imported here, or each would import the other before it is there.
"""
