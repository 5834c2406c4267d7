"""All rules of admission, in the order in which they are tried."""

from __future__ import annotations

from datetime import datetime, timedelta

from processors.admit.content import check_content
from processors.admit.forms import check_id, check_label, check_labels, check_name, check_user, refused
from processors.admit.options import check_options
from processors.admit.policy import AdmitPolicy
from schemas.records import Admission, Meta, Request

PRIORITIES = ("high", "normal", "low")


def check_origin(meta: Meta, claimed: Meta, policy: AdmitPolicy) -> None:
    """Who asks: ``meta`` as the runner has it, ``claimed`` as the producer wrote it. Raises ``RefusedError``."""
    limits = policy.limits
    check_id(meta.request_id, "meta.request_id", limits.id_chars)
    check_name(meta.tenant, "meta.tenant", 100)
    if meta.lane != policy.lane:
        raise refused("meta.lane", f"this topic belongs to the lane {policy.lane}")
    if claimed.run:
        raise refused("meta.run", "only a replay sets it")
    if claimed.tenant not in ("", meta.tenant):
        raise refused("meta.tenant", f"this topic belongs to the tenant {meta.tenant}", "tenant_mismatch")
    if not policy.trust_producers and meta.tenant not in policy.tenants:
        raise refused("meta.tenant", "is not a known tenant; add it to the settings", "unknown_tenant")


def check_request(request: Request, policy: AdmitPolicy) -> None:
    """What is asked. Raises ``RefusedError`` for the first rule that is broken, naming the field."""
    limits = policy.limits
    if request.idempotency_key is not None:
        check_id(request.idempotency_key, "idempotency_key", limits.idempotency_key_chars)
    if request.user:
        check_user(request.user, "user", limits.user_chars)
    if request.session:
        check_id(request.session, "session", limits.id_chars)
    check_label(request.team, "team", limits.label_chars)
    check_label(request.feature, "feature", limits.label_chars)
    _check_tier(request, policy)
    if request.priority not in PRIORITIES:
        raise refused("priority", f"must be one of {', '.join(PRIORITIES)}")
    if not limits.ttl_ms_min <= request.ttl_ms <= limits.ttl_ms_max:
        raise refused("ttl_ms", f"must be between {limits.ttl_ms_min} and {limits.ttl_ms_max}")
    if policy.route(request.route, request.meta.tenant) is None:
        raise refused("route", "is not a known route; see the settings", "unknown_route")
    if request.model is not None:
        check_id(request.model, "model", limits.id_chars)
    check_labels(request.metadata, "metadata", entries=limits.metadata_entries, value_chars=limits.metadata_value_chars)
    check_content(request, limits)
    check_options(request, limits)


def admission(request: Request, policy: AdmitPolicy, *, accepted_at: datetime, body_hash: str) -> Admission:
    """What a valid request is admitted with. No measured value is in it: a redelivery gives the same."""
    return Admission(
        route=policy.route(request.route, request.meta.tenant) or policy.default_route,
        tier=policy.tenants.get(request.meta.tenant, policy.default_tier),
        priority=request.priority,
        expires_at=accepted_at + timedelta(milliseconds=request.ttl_ms),
        body_hash=body_hash,
        policy_version=policy.version,
    )


def _check_tier(request: Request, policy: AdmitPolicy) -> None:
    check_label(request.tier, "tier", policy.limits.label_chars)
    own = policy.tenants.get(request.meta.tenant)
    if request.tier and own is not None and request.tier != own:
        raise refused("tier", "is not the tenant's tier in the settings; leave it empty")
