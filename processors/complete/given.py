"""What the stage gives out for a call that has ended: its costs, its completion or failed answer, the closing delta."""

from __future__ import annotations

from collections.abc import Sequence

from processors.cache.serving import CACHES, cost_of_hit, hit_again
from processors.complete.deltas import closing_delta, failed_delta
from processors.complete.records import costs_of, failed_answer
from processors.complete.reuse import call_again, cost_of_sample, fan_out_again
from processors.complete.samples import Sample, attempts_of
from processors.complete.tasks import Tasks
from processors.event import Incoming, Output, Recorded
from processors.journal import CallKey, Done, Ended
from schemas.codec import Codec
from schemas.errors import CrashLoopError, IndeterminateError
from schemas.records import Completion, Cost, Enrichment


class Given:
    """Reads outputs from what the journal says, so that a redelivery gives the same bytes."""

    def __init__(self, tasks: Tasks, codec: Codec) -> None:
        self._tasks, self._codec = tasks, codec

    def outputs(
        self, incoming: Incoming[Enrichment], key: CallKey, claim: Done | Ended, samples: Sequence[Sample] = ()
    ) -> Sequence[Output]:
        """The events of a call that has ended, with those of its ``samples``.

        Raises ``IndeterminateError`` and ``CrashLoopError``, both with costs and answer in ``outputs``.
        """
        stored = self._tasks.as_stored(incoming, claim.input)
        costs = [cost for sample in samples for cost in _costs_of_sample(stored, claim, sample)]
        costs += costs_of(stored, key, claim.attempts)
        if isinstance(claim, Done):
            completion = self._codec.decode(claim.result, Completion)
            if completion.served_by in CACHES:
                costs.append(cost_of_hit(stored, key, claim, completion))
            closing = [closing_delta(completion)] if completion.streamed else []
            return [*costs, *closing, Recorded(completion, claim.result)]
        failure = claim.failure
        streamed = self._tasks.streamed(stored.record)
        closing = [failed_delta(stored, claim)] if claim.attempts and streamed else []
        before = attempts_of(samples)
        outputs = (*costs, *closing, failed_answer(stored, claim, key, streamed=streamed, before=before))
        if failure.kind in ("indeterminate", "crash_loop"):
            error = (IndeterminateError if failure.kind == "indeterminate" else CrashLoopError)(failure.message)
            error.outputs = outputs
            raise error
        return outputs

    def reused(self, incoming: Incoming[Enrichment], key: CallKey, earlier: Done) -> Sequence[Output]:
        """The events of a request that is served by what another run of it has paid for."""
        original = self._codec.decode(earlier.result, Completion)
        if original.served_by in CACHES:
            return hit_again(incoming, key, earlier, original)
        if not earlier.attempts:
            return fan_out_again(incoming, key, earlier, original)
        return call_again(incoming, key, earlier, original)


def _costs_of_sample(incoming: Incoming[Enrichment], claim: Done | Ended, sample: Sample) -> list[Cost]:
    if sample.completion is not None and sample.reused:
        return [cost_of_sample(incoming, sample.key, sample.completion, at=claim.ended_at)]
    return costs_of(incoming, sample.key, sample.rows)
