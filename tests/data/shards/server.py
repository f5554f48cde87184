"""A server of files on this machine, in threads, that can be told to misbehave."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# How an answer goes wrong: a status, or one of "half" (of what was promised), "short" (an honest answer with half of
# what was asked for), "whole" (the file, whatever was asked for), "slow", "late" (after a while), "gone" (no answer).
Fault = int | str


@dataclass
class Server:
    """Requests that came, and what is done with the next ones.

    Args:
        url: of the folder.
        faults: of the next requests, one each; None where all goes well.
        always: the fault of all others.
        requests: path with its question and range of each request so far; (0, 0) without a range.
    """

    url: str = ""
    faults: list[Fault | None] = field(default_factory=list)
    always: Fault | None = None
    requests: list[tuple[str, int, int]] = field(default_factory=list)

    def count(self, word: str = "") -> int:
        """How many requests were for files with a word in their names."""
        return sum(word in path for path, *_ in self.requests)


@contextlib.contextmanager
def serving(folder: Path, prefix: str = "") -> Iterator[Server]:
    """Serve the files of a folder."""
    server = Server()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            start, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            with lock:
                server.requests.append((self.path, int(start or 0), int(last) + 1 if last else 0))
                fault = server.faults.pop(0) if server.faults else server.always
            path = folder / unquote(parts.path).removeprefix(prefix).lstrip("/")
            if fault == "gone":
                self.close_connection = True
                return
            time.sleep(1 if fault == "slow" else 0.1 if "late" in str(fault) else 0)
            if isinstance(fault, int) or not path.is_file():
                self._answer(fault if isinstance(fault, int) else 404, b"sorry")
                return
            content, begin = path.read_bytes(), int(start or 0)
            end = min(int(last) + 1 if last else len(content), len(content))
            if not start or fault == "whole":
                self._answer(200, content, fault)
            elif begin >= len(content):
                self._answer(416, b"")
            else:
                self._answer(206, content[begin:end], fault, f"bytes {begin}-{end - 1}/{len(content)}")

        def _answer(self, status: int, content: bytes, fault: Fault | None = None, span: str = "") -> None:
            half = content[: len(content) // 2]
            self.send_response(status)
            if span:
                self.send_header("Content-Range", span)
            self.send_header("Content-Length", str(len(half if "short" in str(fault) else content)))
            self.end_headers()
            self.wfile.write(half if "half" in str(fault) or "short" in str(fault) else content)
            self.close_connection = self.close_connection or fault == "half"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Nobody is told that a client has gone."""

    with Quiet(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_address[1]}{prefix}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
