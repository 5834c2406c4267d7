"""Who may do what on the broker: the least that each stage and role needs, read off the declarations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from schemas.errors import ConfigurationError
from streams import login
from streams.outputs import kinds_of
from streams.reading import READER_GROUP
from streams.settings import Settings
from streams.stages import STAGES, Stage
from streams.topics import admin_client, input_topics, output_topics, topic_name

TIMEOUT_S = 30.0
DEFAULT_PREFIX = "User:headrace-"
# Any stage may bury what it can't process. Those that may end a request declare answers among their outputs.
_ALWAYS = ("dead-letters",)
_ADMINISTER = ("ALTER", "ALTER_CONFIGS", "CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "READ")

Resource = Literal["cluster", "group", "topic"]
CLUSTER = "kafka-cluster"


@dataclass(frozen=True, slots=True, order=True)
class Need:
    """One operation on one resource. ``prefixed``: on all whose names begin so."""

    resource: Resource
    name: str
    operation: str
    prefixed: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """A need that a principal has. ``deny`` is only ever found, never wanted."""

    principal: str
    need: Need
    host: str = "*"
    deny: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """The broker's grants against those that are wanted."""

    missing: tuple[Grant, ...] = ()
    # Of principals that Headrace names, on the lane's resources: not wanted.
    extra: tuple[Grant, ...] = ()
    # Of other principals on the lane's resources, and every denial: never removed here.
    foreign: tuple[Grant, ...] = ()


def stage_needs(settings: Settings, lane: str, stage: Stage) -> tuple[Need, ...]:
    """What a worker of a stage does on the broker, and nothing else."""
    prefix = settings.prefix
    read = [name for source in stage.inputs for name in input_topics(settings, lane, source.kind)]
    kinds = {*_ALWAYS, *(kind for record in stage.outputs for kind in kinds_of(record))}
    written = [name for kind in kinds for name in output_topics(settings, lane, kind)]
    if stage.defers or stage.puts_off:
        # What was set aside goes back to where it came from.
        written += read
    groups = [f"{prefix}{lane}.{stage.group_of(source)}" for source in stage.inputs]
    found = {Need("topic", name, "READ") for name in [*read, topic_name(prefix, lane, "control")]}
    found |= {Need("topic", name, "WRITE") for name in written}
    found |= {Need("group", name, "READ") for name in groups}
    return tuple(sorted(found))


def role_needs(settings: Settings, lane: str, *, prefix: str = DEFAULT_PREFIX) -> dict[str, tuple[Need, ...]]:
    """What each role needs: every stage, and those outside the stream. READ and WRITE bring DESCRIBE with them."""
    roles = {name: stage_needs(settings, lane, stage) for name, stage in STAGES.items()}
    lane_prefix = f"{settings.prefix}{lane}."
    sources = [source.kind for stage in STAGES.values() for source in stage.inputs]
    mine = {name for kind in sources for name in input_topics(settings, lane, kind)}
    reader = Need("group", READER_GROUP, "DESCRIBE")
    roles["operator"] = (
        *(Need("topic", lane_prefix, operation, prefixed=True) for operation in _ADMINISTER),
        # A dead letter that is sent once more goes to the topic it came from.
        *(Need("topic", name, "WRITE") for name in sorted({*mine, topic_name(settings.prefix, lane, "control")})),
        Need("group", lane_prefix, "READ", prefixed=True),
        reader,
    )

    def topic(kind: str, operation: str) -> Need:
        return Need("topic", topic_name(settings.prefix, lane, kind), operation)

    tenants = settings.tenant_topics
    if not tenants:
        roles["producer"] = (topic("documents", "WRITE"), topic("requests", "WRITE"))
        roles["consumer"] = (
            *(topic(kind, "READ") for kind in ("answers", "chunks", "evaluations")),
            topic("feedback", "WRITE"),
            *_consumer_groups(settings, "consumer", prefix),
        )
        return roles
    # Documents name their tenant themselves: whoever writes them is trusted with all of them.
    roles["producer"] = (topic("documents", "WRITE"),)
    for tenant in tenants:
        roles[f"producer-{tenant}"] = (topic(f"requests.{tenant}", "WRITE"),)
        roles[f"consumer-{tenant}"] = (
            topic(f"answers.{tenant}", "READ"),
            topic(f"chunks.{tenant}", "READ"),
            *_consumer_groups(settings, f"consumer-{tenant}", prefix),
        )
    return roles


def wanted_grants(
    settings: Settings, lane: str, *, prefix: str = DEFAULT_PREFIX, idempotent_write: bool = False
) -> tuple[Grant, ...]:
    """Every grant of a lane. ``idempotent_write``: brokers before 2.8 want it of idempotent producers by itself."""
    grants = set()
    for role, needs in role_needs(settings, lane, prefix=prefix).items():
        principal = principal_of(settings, role, prefix)
        grants |= {Grant(principal, need) for need in needs}
        if idempotent_write and role.partition("-")[0] in ("producer", "consumer", "operator"):
            # Workers' producers are not idempotent: event ids make their repeats harmless.
            grants.add(Grant(principal, Need("cluster", CLUSTER, "IDEMPOTENT_WRITE")))
    return tuple(sorted(grants))


def principal_of(settings: Settings, role: str, prefix: str) -> str:
    """The principal of a role: its user in ``kafka.principals`` where it has one there, else by the prefix."""
    own = settings.kafka.principals.get(role)
    if own is not None and own.sasl is not None and own.sasl.username:
        return f"{prefix.partition(':')[0]}:{own.sasl.username}"
    return f"{prefix}{role}"


def compare_grants(settings: Settings, lane: str, wanted: Sequence[Grant]) -> Comparison:
    """The broker's grants against ``wanted``. Blocks on the broker; raises ``ConfigurationError`` when it refuses."""
    there = {_grant(binding) for binding in _described(settings)}
    lane_prefix, ours = f"{settings.prefix}{lane}.", {grant.principal for grant in wanted}
    names = {grant.need.name for grant in wanted}
    allowed = {grant for grant in there if not grant.deny and grant.host == "*"}
    inside = {
        grant
        for grant in there - set(wanted)
        if grant.need.name.startswith(lane_prefix)
        or _reaches(grant.need, lane_prefix)
        or (grant.principal in ours and grant.need.name in names)
    }
    extra = {grant for grant in inside if grant.principal in ours and grant in allowed}
    return Comparison(
        missing=tuple(sorted(set(wanted) - there)),
        extra=tuple(sorted(extra)),
        foreign=tuple(sorted(inside - extra)),
    )


def create_grants(settings: Settings, grants: Iterable[Grant]) -> None:
    """Create grants. Blocks on the broker; raises ``ConfigurationError`` when it refuses."""
    bindings = [_binding(grant) for grant in grants]
    if not bindings:
        return
    admin = admin_client(settings)
    try:
        for future in admin.create_acls(bindings, request_timeout=TIMEOUT_S).values():
            future.result(TIMEOUT_S)
    except KafkaException as error:
        raise _refused(settings, error) from error


def remove_grants(settings: Settings, grants: Iterable[Grant]) -> None:
    """Remove exactly these grants. Blocks on the broker; raises ``ConfigurationError`` when it refuses."""
    filters = [_filter(grant) for grant in grants]
    if not filters:
        return
    admin = admin_client(settings)
    try:
        for future in admin.delete_acls(filters, request_timeout=TIMEOUT_S).values():
            future.result(TIMEOUT_S)
    except KafkaException as error:
        raise _refused(settings, error) from error


def commands(grants: Iterable[Grant], *, bootstrap: str) -> list[str]:
    """The grants as calls of Kafka's own tool, one a principal and resource."""
    gathered: dict[tuple[str, Resource, str, bool], list[str]] = {}
    for grant in grants:
        need = grant.need
        gathered.setdefault((grant.principal, need.resource, need.name, need.prefixed), []).append(need.operation)
    lines = []
    for (principal, resource, name, prefixed), operations in gathered.items():
        which = "--cluster" if resource == "cluster" else f"--{resource} '{name}'"
        pattern = " --resource-pattern-type prefixed" if prefixed else ""
        asked = " ".join(f"--operation {_camel(operation)}" for operation in operations)
        lines.append(
            f"kafka-acls.sh --bootstrap-server {bootstrap} --command-config admin.properties --add "
            f"--allow-principal '{principal}' {asked} {which}{pattern}"
        )
    return lines


def _consumer_groups(settings: Settings, role: str, prefix: str) -> tuple[Need, ...]:
    """A consumer's groups are called after its principal, and then a dot: nobody else's name begins so."""
    name = principal_of(settings, role, prefix).partition(":")[2]
    return Need("group", f"{name}.", "READ", prefixed=True), Need("group", READER_GROUP, "DESCRIBE")


def _reaches(need: Need, lane_prefix: str) -> bool:
    """Whether a grant on more than the lane takes the lane in."""
    return need.resource != "cluster" and (need.name == "*" or (need.prefixed and lane_prefix.startswith(need.name)))


def _described(settings: Settings) -> list[AclBinding]:
    nobody: Any = None
    everything = AclBindingFilter(
        ResourceType.ANY, nobody, ResourcePatternType.ANY, nobody, nobody, AclOperation.ANY, AclPermissionType.ANY
    )
    # Its answers end with the client.
    admin = admin_client(settings)
    try:
        found: list[AclBinding] = admin.describe_acls(everything, request_timeout=TIMEOUT_S).result(TIMEOUT_S)
    except KafkaException as error:
        raise _refused(settings, error) from error
    return [binding for binding in found if binding.restype in _RESOURCES]


def _refused(settings: Settings, error: KafkaException) -> Exception:
    code = error.args[0].name() if error.args else ""
    if code == "SECURITY_DISABLED":
        return ConfigurationError("the broker has no authorizer, so it keeps no ACLs; see docs/security.md")
    if code == "CLUSTER_AUTHORIZATION_FAILED":
        return ConfigurationError("kafka.sasl: this principal may not manage ACLs; use one of the broker's super users")
    return login.down(settings.kafka, error)


def _grant(binding: AclBinding) -> Grant:
    need = Need(
        _RESOURCES[ResourceType(binding.restype)],
        binding.name,
        AclOperation(binding.operation).name,
        prefixed=binding.resource_pattern_type == ResourcePatternType.PREFIXED,
    )
    return Grant(binding.principal, need, binding.host, deny=binding.permission_type == AclPermissionType.DENY)


_RESOURCES: dict[ResourceType, Resource] = {
    ResourceType.TOPIC: "topic",
    ResourceType.GROUP: "group",
    ResourceType.BROKER: "cluster",
}


def _resource(need: Need) -> ResourceType:
    return next(kind for kind, name in _RESOURCES.items() if name == need.resource)


def _binding(grant: Grant) -> AclBinding:
    parts: Any = _parts(grant)
    return AclBinding(*parts)


def _filter(grant: Grant) -> AclBindingFilter:
    parts: Any = _parts(grant)
    return AclBindingFilter(*parts)


def _parts(grant: Grant) -> tuple[object, ...]:
    need = grant.need
    pattern = ResourcePatternType.PREFIXED if need.prefixed else ResourcePatternType.LITERAL
    operation, permission = AclOperation[need.operation], AclPermissionType.ALLOW
    return _resource(need), need.name, pattern, grant.principal, grant.host, operation, permission


def _camel(operation: str) -> str:
    return operation.title().replace("_", "")
