"""A bucket in memory that speaks as much of the Google Cloud Storage protocol as is needed."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket:
    """Serves objects on a loopback port; ``objects`` maps (bucket, name) to (bytes, generation).

    The next ``failures`` reads are answered with 503.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], tuple[bytes, int]] = {}
        self.requests: list[str] = []
        self.failures = 0
        self._clock = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"bucket": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fails(self) -> bool:
        with self._lock:
            failing = self.failures > 0
            self.failures -= failing
            return failing

    def put(self, key: tuple[str, str], data: bytes) -> int:
        with self._lock:
            self._clock += 1
            self.objects[key] = data, self._clock
            return self._clock


class _Handler(BaseHTTPRequestHandler):
    bucket: Bucket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # a reply leaves as one piece: otherwise each waits for a delayed ACK

    def do_GET(self) -> None:
        if self.bucket.fails():
            return self._send(503, b"busy")
        path, query = self._parse()
        if path[-1] == "o":
            return self._list(path[-2], query.get("prefix", ""))
        found = self.bucket.objects.get((path[-3], unquote(path[-1])))
        if found is None:
            return self._send(404, b"not found")
        data, generation = found
        first, last = self._range(len(data))
        part = data[first : last + 1]
        headers = {
            "x-goog-generation": str(generation),
            "Content-Range": f"bytes {first}-{last}/{len(data)}",
        }
        return self._send(206 if "Range" in self.headers else 200, part, headers)

    def do_POST(self) -> None:
        path, query = self._parse()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        key = path[-2], query["name"]
        generation = self.bucket.put(key, data)
        resource = {"name": key[1], "bucket": key[0], "generation": str(generation)}
        self._send(200, json.dumps(resource | {"size": str(len(data))}).encode())

    def do_DELETE(self) -> None:
        path, _ = self._parse()
        found = self.bucket.objects.pop((path[-3], unquote(path[-1])), None)
        self._send(404 if found is None else 204, b"")

    def log_message(self, format: str, *args: object) -> None:
        self.bucket.requests.append(format % args)

    def _parse(self) -> tuple[list[str], dict[str, str]]:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        return parts.path.split("/"), query

    def _list(self, bucket: str, prefix: str) -> None:
        names = sorted(name for key, name in self.bucket.objects if key == bucket)
        items = [
            {
                "name": name,
                "generation": "1",
                "size": str(len(self.bucket.objects[bucket, name][0])),
            }
            for name in names
            if name.startswith(prefix)
        ]
        self._send(200, json.dumps({"items": items}).encode())

    def _range(self, size: int) -> tuple[int, int]:
        header = self.headers.get("Range")
        if header is None:
            return 0, size - 1
        first, _, last = header.removeprefix("bytes=").partition("-")
        if not first:
            return max(0, size - int(last)), size - 1
        return int(first), min(int(last), size - 1) if last else size - 1

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
