from collections import defaultdict

from apps.local.chaos.plan import Kind, make_plan

KINDS = {
    "broker restarted": Kind("broker", 5),
    "broker away": Kind("broker", 20),
    "worker killed": Kind("workers", 6),
    "job recorded": Kind("jobs", 1),
}


def test_the_same_seed_is_the_same_plan() -> None:
    assert make_plan(7, 1000, KINDS) == make_plan(7, 1000, KINDS)
    assert make_plan(7, 1000, KINDS) != make_plan(8, 1000, KINDS)


def test_every_fault_strikes_at_least_once_while_the_producers_work() -> None:
    for seed in range(50):
        plan = make_plan(seed, 100, KINDS)
        assert {strike.fault for strike in plan.strikes} == KINDS.keys()
        assert all(0 <= strike.at < plan.seconds for strike in plan.strikes)


def test_two_faults_never_share_a_resource_at_the_same_time() -> None:
    for seed in range(50):
        free_at: dict[str, float] = defaultdict(float)
        for strike in make_plan(seed, 1000, KINDS).strikes:
            kind = KINDS[strike.fault]
            # Times are rounded to a hundredth of a second.
            assert strike.at >= free_at[kind.resource] - 0.02
            free_at[kind.resource] = strike.at + kind.seconds


def test_more_jobs_take_longer_and_meet_each_fault_more_often() -> None:
    short, long = (make_plan(1, jobs, KINDS) for jobs in (1_000, 10_000))
    assert long.seconds > short.seconds
    assert len(long.strikes) > 5 * len(short.strikes)


def test_a_plan_is_never_shorter_than_its_faults_take() -> None:
    assert make_plan(1, 1, KINDS, shortest=1).seconds >= 25
