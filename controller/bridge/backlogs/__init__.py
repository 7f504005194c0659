"""Users with more waiting than fits: their offsets are kept in UserBacklogs, their records stay in Kafka."""
