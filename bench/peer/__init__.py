"""What the peers run: a task that does nothing and one that tells when it started, in each system's own words.

Each module is imported in the peers' own environment, by the peer's worker and by whoever enqueues.
"""
