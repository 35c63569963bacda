"""What the peers run: tasks that do nothing, write one row, or tell when they started, in each system's own words.

Each module is imported in the peers' own environment, by the peer's worker and by whoever enqueues.
"""
