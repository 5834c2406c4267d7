"""Calls that go by a provider's Batch API: stored, sent together in a file, and answered within a day at a lower price.

An event of such a lane is not called: its call becomes an *item*, and the event is set aside. A collector, one for each
deployment at a time, gathers items into a *batch*: claims their calls in the journal under the owner ``batch:<id>``,
uploads the file, makes the batch, looks at it until it is done, and stores each reply with its item. Then the event
comes back, and the stage makes its call as always, but for the first attempt, whose reply is the stored one. So
classes of errors, retries, fallbacks, judging and booking are those of every other call.

Every step is a row before it is done, and may be done again by another worker:

* ``claiming``: items are being claimed; those that are the batch's already are found by the owner of their calls.
* ``uploading``: all are claimed. A file that was uploaded and not noted is uploaded again: that costs nothing.
* ``uploaded``: the file is there, the batch is not.
* ``creating``: it may be. It is looked up by its metadata before anything else is done; one that can't be found is
  ``lost``: its attempts are booked as unknown, at their upper bound.
* ``open``: it is looked at until it is over; replies are stored as they are read, each once.
* ``ended`` and ``lost``: every item has a reply, or the reason why it has none.
"""

from __future__ import annotations
