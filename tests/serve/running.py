"""A server in a thread, on a free port, as long as a block runs."""

import socket
from contextlib import contextmanager
from threading import Thread
from time import sleep

import uvicorn


@contextmanager
def running(app):
    """Yields the address at which the app is served."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
