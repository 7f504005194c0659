"""Users with more records waiting than fit into memory: their offsets are listed in a UserBacklog, so that `position`
can move on, and the records stay in Kafka.

`Backlogs` is all that the rest of the bridge sees of the backlogs of one stream. Behind it:

- `cache`: what each backlog lists, in memory; the truth for this replica's partitions.
- `writer`: brings the cache into the API server.
- `loader`: what the API server has when partitions are assigned.

`release_orphans` looks after UserBacklogs whose stream is gone; one runs in each process.
"""

from controller.bridge.backlogs.backlogs import Backlogs
from controller.bridge.backlogs.loader import BACKLOG_UNREADABLE
from controller.bridge.backlogs.orphans import release_orphans

__all__ = ["BACKLOG_UNREADABLE", "Backlogs", "release_orphans"]
