"""The faults, by what they strike. Importing this registers all of them in `FAULTS`."""

from apps.local.chaos.faults import broker, database, jobs, processes, third_parties, workers
from apps.local.chaos.faults.strike import FAULTS, Course, Fault, Hit

__all__ = ["FAULTS", "Course", "Fault", "Hit", "broker", "database", "jobs", "processes", "third_parties", "workers"]
