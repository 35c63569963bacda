"""What happens to PostgreSQL."""

from apps.local.chaos.faults.strike import Course, Hit, fault
from apps.local.chaos.world import WORKERS, World


@fault("database restarted (fast)", resource="database", seconds=6)
def restart_database(world: World, _choice: float) -> Course:
    running = world.running_on(*WORKERS)
    world.postgres.restart("fast")
    yield 3.0
    return Hit(running, "running jobs")


@fault("database restarted (immediate)", resource="database", seconds=6)
def crash_database(world: World, _choice: float) -> Course:
    running = world.running_on(*WORKERS)
    world.postgres.restart("immediate")
    yield 3.0
    return Hit(running, "running jobs")
