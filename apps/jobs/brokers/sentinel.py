"""Redis behind Sentinel: our channel, on the server that the sentinels name."""

from typing import Any

from kombu.transport import redis as kombu_redis

from apps.jobs import transport


class Channel(transport.Channel, kombu_redis.SentinelChannel):
    """First ours, then kombu's own way to find the server, then what both extend."""


class Transport(transport.Transport):
    Channel = Channel
    default_port: Any = kombu_redis.SentinelTransport.default_port
