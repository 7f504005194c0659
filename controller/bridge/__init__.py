"""`python -m controller bridge`: Kafka records become UserUpdates, for every UpdateStream of the cluster.

To read it: `ingest` (one stream's way to Kafka), `consumption` (one topic, one group member), `dispatch` (a record's
way to its UserUpdate), then the nouns they use: `slots`, `lanes`, `links`, `tracker`, `partitions`, `positions`.
"""

from controller.bridge.streams import run

__all__ = ["run"]
