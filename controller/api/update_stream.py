"""The UpdateStream: where events come from, what is done with them, by which limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

from controller.api import names

Policy: TypeAlias = Literal["Hold", "Continue"]
Checkpoints: TypeAlias = Literal["EveryStep", "Coalesced"]


@dataclass(frozen=True, slots=True)
class KafkaSpec:
    bootstrap_servers: str
    topic: str
    group_id: str
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
    #: Seconds until a busy downstream is asked again, where it does not say.
    busy_delay_seconds: float = 5.0
    #: Most calls at a time; None: as many as there are users.
    concurrency: int | None = None
    retry: RetrySpec = RetrySpec()
    secret_name: str | None = None

    @property
    def target(self) -> tuple[str, str | None]:
        """What is called, and the name of the Secret with which."""
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
    max_objects: int = 1000
    max_per_user: int = 5


@dataclass(frozen=True, slots=True)
class Retention:
    succeeded_seconds: float = 3600
    failed_seconds: float = 604800
    max_finished: int = 5000


@dataclass(frozen=True, slots=True)
class Suspend:
    ingest: bool = False
    processing: bool = False
    users: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UpdateStream:
    namespace: str
    name: str
    uid: str
    #: The uid under which a bridge or controller adopted it; None: none has yet.
    adopted_uid: str | None
    generation: int
    kafka: KafkaSpec
    steps: Mapping[str, StepSpec]
    #: Parts that controllers may share; see `sharding`.
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
        """A copy of a stream that was at work: its positions, and the status of its updates, may be missing."""
        return self.adopted_uid not in (None, self.uid)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> UpdateStream:
        """Raises one of `api.NOT_UNDERSTOOD` where the object is not what this version's CRD lets pass."""
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
    """The word, if it is one of `words`. Raises ValueError for another one, which a newer version may know."""
    if word not in get_args(words):
        raise ValueError(f"{word!r} is none of {', '.join(get_args(words))}")
    return word


def _known_steps(steps: Mapping[str, Any]) -> tuple[str, ...]:
    """Raises ValueError for others than ours: an update without one of its steps is not applied."""
    if set(steps) != set(names.STEPS):
        raise ValueError(f"its steps are not {', '.join(names.STEPS)}")
    return names.STEPS
