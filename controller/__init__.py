"""Kafka events become UserUpdate resources; each user's updates are applied strictly in order.

record (topic/partition/offset, key = user) → UserUpdate → the user's queue → decide() → step over HTTP (idempotency key) → status checkpoint → next step … → Succeeded → next in the queue
"""  # noqa: E501
