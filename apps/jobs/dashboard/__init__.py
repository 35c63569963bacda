"""The dashboard: what an operator wants to know at a glance, from rows alone, without a broadcast to the workers."""
