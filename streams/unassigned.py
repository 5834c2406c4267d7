"""What nobody reads: partitions of a group's topics that no member was given.

A static member that comes back within the session timeout is given its old partitions without a new assignment. When it
is the group's leader and the topics have grown meanwhile, it knows all partitions from the start, so that it never sees
them change either, and the new ones would lie unread until the next rebalance.
"""

from __future__ import annotations

from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.protocol.admin import DescribeGroupsRequest

STABLE = "Stable"


async def unassigned(consumer: Any) -> set[tuple[str, int]] | None:
    """The partitions of the topics an ``AIOKafkaConsumer`` is subscribed to that its group gave to nobody.

    None while the group is being rebalanced. Asks the group's coordinator; needs no more rights than reading does.

    Raises:
        aiokafka.errors.KafkaError: The coordinator is away.
    """
    coordinator, cluster = consumer._coordinator, consumer._client.cluster
    answer = await coordinator._send_req(DescribeGroupsRequest([coordinator.group_id]))
    error, _group, state, _type, _protocol, members = answer.groups[0]
    if error or state != STABLE:
        return None
    known = {(topic, one) for topic in consumer.subscription() for one in cluster.partitions_for_topic(topic) or ()}
    for member in members:
        for topic, partitions in ConsumerProtocolMemberAssignment.decode(member[-1]).assignment:
            known -= {(topic, one) for one in partitions}
    return known
