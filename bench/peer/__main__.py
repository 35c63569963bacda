"""What a peer is asked to do in its own environment.

`python -m bench.peer with_rq fill stamp:1 nothing:3000` has a worker find so many jobs of each task, in this order;
`python -m bench.peer with_rq rates 300 5000` prints its rates, for so many one by one and so many together;
`python -m bench.peer with_rq starts 50` prints after how many milliseconds so many jobs started, one at a time.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module

from bench import stamps

# Connections are made in these, which are not counted.
WARM_UP = 20


def main(module: str, command: str, *arguments: str) -> None:
    peer = import_module(f"bench.peer.{module}")
    if command == "fill":
        for wish in arguments:
            task, _, jobs = wish.partition(":")
            peer.together(task, int(jobs))
    elif command == "starts":
        ask = partial(peer.one_by_one, "stamp", 1)
        started = [stamps.milliseconds_to_start(ask) for _ in range(stamps.WARM_UP + int(arguments[0]))]
        print(json.dumps(started[stamps.WARM_UP :]))
    else:
        one, many = map(int, arguments)
        print(json.dumps([rate(peer.one_by_one, one), rate(peer.together, many)]))


def rate(enqueue: Callable[[str, int], None], jobs: int) -> float:
    enqueue("nothing", WARM_UP)
    began = time.perf_counter()
    enqueue("nothing", jobs)
    return jobs / (time.perf_counter() - began)


main(*sys.argv[1:])
