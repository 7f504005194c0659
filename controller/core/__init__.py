"""The decisions, pure: what a record becomes, whose turn it is, which step is next, what an answer means."""
