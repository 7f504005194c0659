"""`python -m controller bridge`: Kafka records become UserUpdates, for every UpdateStream of the cluster.

To read it: `context` (what the parts share), `stream` (one stream's way to Kafka), `consumer` (one topic, one group
member), `dispatch` (a record's way to its UserUpdate), then the nouns they use: `working_set`, `pending`, `links`,
`tracker`, `partitions`, `positions`.
"""

from controller.bridge.streams import run

__all__ = ["run"]
