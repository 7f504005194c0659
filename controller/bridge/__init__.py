"""`python -m controller bridge`: Kafka records become UserUpdates, for every UpdateStream of the cluster.

Read the modules in this order. First those that consume:

1. `context`: what all streams share, and what all objects share that consume one topic.
2. `streams`: all UpdateStreams. `stream`: one of them, with its Secret and its topic. `consumer`: its topic, as one
   member of its consumer group.
3. `assignment`: begins to read assigned partitions and releases revoked ones. `partitions`: those that are assigned.
   `positions`: where reading begins.

Then those that a record passes, from the consumer to its UserUpdate:

4. `pending`: records in memory, each user's in order. `dispatch`: creates their UserUpdates, by `creator`, as fast as
   `write_limiter` allows. `working_set`: which user may have the next one, and which update it comes after.
5. `rejected_events`: records that can never become a UserUpdate.
6. `backlogs`: users with more records than fit into memory.
7. `pausing`: limits how much is read ahead.

Last those that report: `membership`, `consuming_condition`, `stream_report` (the status), `object_counts`,
`controllers`, `metrics`.
"""

from controller.bridge.streams import run

__all__ = ["run"]
