"""The UpdateStream: where events come from, which steps apply them, and the limits for both. Read from JSON here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

from controller.api import names

Policy: TypeAlias = Literal["Hold", "Continue"]
Checkpoints: TypeAlias = Literal["EveryStep", "Coalesced"]


@dataclass(frozen=True, slots=True)
class KafkaSpec:
    """The topic that a bridge consumes, and how it reaches the brokers."""

    bootstrap_servers: str
    topic: str
    group_id: str
    #: librdkafka properties.
    config: Mapping[str, str]
    secret_name: str | None

    @classmethod
    def from_body(cls, body: Mapping[str, Any], *, default_group: str) -> KafkaSpec:
        return cls(
            bootstrap_servers=body["bootstrapServers"],
            topic=body["topic"],
            group_id=body.get("groupId") or default_group,
            config=dict(body.get("config") or {}),
            secret_name=(body.get("secretRef") or {}).get("name"),
        )


@dataclass(frozen=True, slots=True)
class RetrySpec:
    """Exponential backoff between failures of a step."""

    initial_seconds: float = 1.0
    max_seconds: float = 60.0
    factor: float = 2.0
    #: 0: no limit.
    max_attempts: int = 0

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> RetrySpec:
        return cls(
            initial_seconds=body.get("initialSeconds", 1.0),
            max_seconds=body.get("maxSeconds", 60.0),
            factor=body.get("factor", 2.0),
            max_attempts=body.get("maxAttempts", 0),
        )


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One downstream service."""

    url: str
    #: Seconds for a whole call.
    timeout_seconds: float = 30.0
    #: Seconds until the next call of a downstream that is busy and sends no Retry-After.
    busy_delay_seconds: float = 5.0
    #: Calls at a time at most; None: no limit but the number of users.
    concurrency: int | None = None
    retry: RetrySpec = RetrySpec()
    secret_name: str | None = None

    @property
    def target(self) -> tuple[str, str | None]:
        """The url that is called, and the name of the Secret for it."""
        return self.url, self.secret_name

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> StepSpec:
        return cls(
            url=body["url"],
            timeout_seconds=body.get("timeoutSeconds", 30.0),
            busy_delay_seconds=body.get("busyDelaySeconds", 5.0),
            concurrency=body.get("concurrency"),
            retry=RetrySpec.from_body(body.get("retry") or {}),
            secret_name=(body.get("secretRef") or {}).get("name"),
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Unfinished UserUpdates that the bridge keeps in the API server."""

    max_objects: int = 1000
    max_per_user: int = 5


@dataclass(frozen=True, slots=True)
class Retention:
    """How long finished UserUpdates of Kafka records stay."""

    succeeded_seconds: float = 3600
    failed_seconds: float = 604800
    max_finished: int = 5000


@dataclass(frozen=True, slots=True)
class Suspend:
    """The work that a person has stopped until the field is unset."""

    ingest: bool = False
    processing: bool = False
    users: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UpdateStream:
    """One stream, as its object in the API server describes it."""

    namespace: str
    name: str
    uid: str
    #: The uid that the object had when a bridge or controller adopted it; None: none has adopted it yet.
    adopted_uid: str | None
    generation: int
    kafka: KafkaSpec
    steps: Mapping[str, StepSpec]
    #: Shards that controllers may share; see `core.sharding`.
    shards: int
    checkpoints: Checkpoints
    on_rejected: Policy
    on_exhausted: Policy
    limits: Limits
    retention: Retention
    suspend: Suspend

    @property
    def namespaced_name(self) -> str:
        """`namespace/name`, as it is in logs."""
        return names.namespaced_name(self.namespace, self.name)

    @property
    def restored(self) -> bool:
        """Whether it is a copy of another object. Its positions, and the status of its updates, may be missing."""
        return self.adopted_uid not in (None, self.uid)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> UpdateStream:
        """Raises one of `api.NOT_UNDERSTOOD` for an object that this version's CRD would not accept."""
        metadata, spec = body["metadata"], body["spec"]
        limits, retention, suspend = (spec.get(key) or {} for key in ("limits", "retention", "suspend"))
        namespace, name = metadata["namespace"], metadata["name"]
        return cls(
            namespace=namespace,
            name=name,
            uid=metadata["uid"],
            adopted_uid=(metadata.get("annotations") or {}).get(names.UID_ANNOTATION),
            generation=metadata.get("generation", 0),
            kafka=KafkaSpec.from_body(spec["kafka"], default_group=f"{namespace}.{name}"),
            steps={step: StepSpec.from_body(spec["steps"][step]) for step in _known_steps(spec["steps"])},
            shards=spec.get("shards", 1),
            checkpoints=cast(Checkpoints, _one_of(Checkpoints, spec.get("checkpoints", "EveryStep"))),
            on_rejected=cast(Policy, _one_of(Policy, spec.get("onRejected", "Continue"))),
            on_exhausted=cast(Policy, _one_of(Policy, spec.get("onExhausted", "Hold"))),
            limits=Limits(limits.get("maxObjects", 1000), limits.get("maxPerUser", 5)),
            retention=Retention(
                retention.get("succeededSeconds", 3600),
                retention.get("failedSeconds", 604800),
                retention.get("maxFinished", 5000),
            ),
            suspend=Suspend(
                ingest=suspend.get("ingest", False),
                processing=suspend.get("processing", False),
                users=frozenset(suspend.get("users") or ()),
            ),
        )


def _one_of(words: Any, word: Any) -> Any:
    """The word, where it is one of `words`. Raises ValueError for any other, which a newer version may know."""
    if word not in get_args(words):
        raise ValueError(f"{word!r} is none of {', '.join(get_args(words))}")
    return word


def _known_steps(steps: Mapping[str, Any]) -> tuple[str, ...]:
    """Raises ValueError for other steps than ours: an update that lacks a step must not be applied."""
    if set(steps) != set(names.STEPS):
        raise ValueError(f"its steps are not {', '.join(names.STEPS)}")
    return names.STEPS
