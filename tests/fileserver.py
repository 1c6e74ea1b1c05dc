"""A server of files on this machine that misbehaves as it is told."""

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served, how badly, and what was asked for.

    Attributes:
        files: path -> content.
        ranges: whether Range is understood, or ignored.
        breaks: answers that still end in the middle of what they promise.
        stalls: answers that still fall silent in the middle, until the server is closed.
        statuses: statuses of the next answers, instead of the files.
        corrupt: whether a byte of each answer is turned over.
        slices, pause: each answer in so many pieces, so many seconds apart.
        asked: (path, Range header or None) of each request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    breaks: int = 0
    stalls: int = 0
    statuses: list[int] = field(default_factory=list)
    corrupt: bool = False
    slices: int = 1
    pause: float = 0.0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def __enter__(self) -> "FileServer":
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                served.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers["Range"]
        self.asked.append((request.path, wanted))
        content = self.files.get(request.path)
        status = self.statuses.pop(0) if self.statuses else 200 if content is not None else 404
        if status != 200:
            request.send_error(status)
            return
        if self.corrupt:
            content = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0
        beyond = first >= len(content)
        request.send_response(416 if beyond else 206 if first else 200)
        if beyond:
            request.send_header("Content-Range", f"bytes */{len(content)}")
        elif first:
            request.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        body = content[first:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        stop = len(body)
        if self.breaks or self.stalls:
            stop //= 2
        step = max(1, -(-stop // self.slices))
        for start in range(0, stop, step):
            request.wfile.write(body[start : min(start + step, stop)])
            self.closing.wait(self.pause)
        if self.breaks:
            self.breaks -= 1
        elif self.stalls:
            self.stalls -= 1
            self.closing.wait(20)
