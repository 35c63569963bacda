"""The sandbox's web server: one process, a thread a request, so that a held request holds nobody else."""

import logging
import socket
import threading
from typing import Any

from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from apps.sandbox import control, stripe
from apps.sandbox.world import World

logger = logging.getLogger(__name__)


def create_app(world: World) -> Flask:
    app = Flask(__name__, template_folder="pages")
    app.extensions["sandbox"] = world
    app.register_blueprint(stripe.stripe)
    app.register_blueprint(control.control)
    return app


class QuietHandler(WSGIRequestHandler):
    """A line a request would drown the shop's own log; what was asked is on the page and in `/_/counts`."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 (werkzeug's signature)
        logger.debug("%s: %s", type, message % args)


class Server:
    """Serves a world on `address`. Raises OSError when the port is taken; port 0 takes a free one."""

    def __init__(self, world: World, host: str = "127.0.0.1", port: int = 0) -> None:
        self.world = world
        self.stopped = threading.Event()
        self._http = self._listen(host, port)
        self.url = f"http://{host}:{self._http.port}"

    def _listen(self, host: str, port: int) -> BaseWSGIServer:
        # A socket of our own, because werkzeug answers a busy port by ending the process.
        with socket.create_server((host, port)) as listening:
            app = create_app(self.world)
            return make_server(host, port, app, threaded=True, request_handler=QuietHandler, fd=listening.fileno())

    def start(self) -> None:
        self.world.webhooks.start()
        threading.Thread(target=self._http.serve_forever, name="sandbox-http", daemon=True).start()

    def stop(self) -> None:
        self.world.switchboard.clear()
        self._http.shutdown()
        self._http.server_close()
        self.world.webhooks.stop()
        self.world.store.close()
