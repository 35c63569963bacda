"""How full the broker is, where it is Redis or Valkey: a full one refuses messages."""

from typing import Any

from celery import Celery


def memory(app: Celery) -> dict[str, Any]:
    """Bytes used and allowed (0: without limit). Empty for other brokers; raises the broker's own errors."""
    with app.connection_for_write() as broker:
        client = getattr(broker.default_channel, "client", None)
        if client is None or not hasattr(client, "info"):
            return {}
        info = client.info("memory")
    return {"memory_used": info["used_memory"], "memory_allowed": info["maxmemory"]}
