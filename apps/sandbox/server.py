"""The sandbox's servers: HTTP, with a thread a request so that a held request holds nobody else, and SMTP."""

import logging
import os
import socket
import threading
from typing import Any

from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from apps.sandbox.control import control
from apps.sandbox.mail import MailServer, Postmaster
from apps.sandbox.page import page
from apps.sandbox.stripe import stripe
from apps.sandbox.supplier import supplier
from apps.sandbox.world import World

logger = logging.getLogger(__name__)


class PortTaken(Exception):
    """Another program listens there."""


class QuietHandler(WSGIRequestHandler):
    """A line a request would drown the shop's own log; what was asked is on the page and in `/_/counts`."""

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 (werkzeug's signature)
        logger.debug("%s: %s", type, message % args)


class Server:
    """Serves one world. A port of 0 is any free one. Raises PortTaken."""

    def __init__(self, world: World, *, host: str = "127.0.0.1", port: int = 0, mail_port: int = 0) -> None:
        self._world = world
        self._http = _http_server(world, host, port)
        try:
            self._mail = _mail_server(world, host, mail_port)
        except PortTaken:
            self._http.server_close()
            raise
        self.url = f"http://{host}:{self._http.port}"
        self.mail_url = f"smtp://{host}:{self._mail.port}"

    def start(self) -> None:
        self._world.webhooks.start()
        self._mail.start()
        threading.Thread(target=self._http.serve_forever, name="sandbox-http", daemon=True).start()

    def stop(self) -> None:
        """Stop listening. Held requests are let go, and cut off if they do not end at once."""
        self._world.switchboard.clear()
        self._http.shutdown()
        self._http.server_close()
        self._mail.stop()
        self._world.webhooks.stop()
        self._world.store.close()


def create_app(world: World) -> Flask:
    app = Flask(__name__, template_folder="pages")
    app.extensions["sandbox"] = world
    for blueprint in (stripe, supplier, control, page):
        app.register_blueprint(blueprint)
    return app


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise PortTaken(f"The sandbox cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}.") from error


def _http_server(world: World, host: str, port: int) -> BaseWSGIServer:
    # A socket of our own, because werkzeug answers a busy port by ending the process. It duplicates this one.
    with _listen(host, port) as listening:
        app = create_app(world)
        return make_server(host, port, app, threaded=True, request_handler=QuietHandler, fd=listening.fileno())


def _mail_server(world: World, host: str, port: int) -> MailServer:
    # aiosmtpd tells every line of every conversation.
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    return MailServer(Postmaster(world.mailbox, world.store, world.switchboard), _listen(host, port))
