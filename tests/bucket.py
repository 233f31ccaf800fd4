"""A bucket of Google Cloud Storage on this machine: as much of its JSON interface as gcsfs and TensorStore use."""

import base64
import hashlib
import itertools
import json
import re
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_OBJECT = re.compile(
    r"/(?:download/)?storage/v1/b/[^/]+/o/([^/]+)"
    r"(?:/(moveTo/o|rewriteTo/b/[^/]+/o|copyTo/b/[^/]+/o)/([^/]+))?"
)


class Bucket:
    """Contents by name, each with the generation that its last writing gave it."""

    def __init__(self):
        self.lock, self.generations = threading.Lock(), itertools.count(1)
        self.contents: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, tuple[str, dict, bytearray]] = {}

    def put(self, name, content):
        self.contents[name] = content, next(self.generations)

    def described(self, name):
        content, generation = self.contents[name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": "bucket",
            "generation": str(generation),
            "metageneration": "1",
            "size": str(len(content)),
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "contentType": "application/octet-stream",
            "md5Hash": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode(),
            "etag": str(generation),
        }

    def refused(self, name, query):
        """Return 412 or 304 where a precondition on the generation does not hold."""
        generation = self.contents[name][1] if name in self.contents else 0
        if "ifGenerationMatch" in query and int(query["ifGenerationMatch"]) != generation:
            return 412
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == generation:
            return 304
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, -1  # Else an answer takes 40 ms.
    bucket: Bucket

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        if isinstance(content, dict):
            content = json.dumps(content).encode()
            headers["content_type"] = "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handled(self):
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.bucket.lock:
            self.act(parts.path, query, body)

    do_GET = do_POST = do_PUT = do_DELETE = handled

    def act(self, path, query, body):
        if path.startswith("/upload/"):
            return self.upload(query, body)
        if path.startswith("/batch/"):
            return self.batch(body)
        if match := _OBJECT.fullmatch(path):
            return self.one(unquote(match[1]), query, match[2], match[3] and unquote(match[3]))
        if re.fullmatch(r"/storage/v1/b/[^/]+/o", path):
            return self.listing(query)
        if re.fullmatch(r"/storage/v1/b/[^/]+", path):
            return self.answer(200, {"kind": "storage#bucket", "name": "bucket", "location": "HERE"})
        return self.answer(501)

    def upload(self, query, body):
        kind = query["uploadType"]
        if "upload_id" in query:
            name, asked, content = self.bucket.uploads[query["upload_id"]]
            content += body
            last = self.headers.get("content-range", "").rpartition("/")[2]
            if last == "*" or last.isdecimal() and len(content) < int(last):
                return self.answer(308, range=f"bytes=0-{len(content) - 1}")
            body, query = bytes(content), asked
        elif kind == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            number = str(next(self.bucket.generations))
            self.bucket.uploads[number] = name, query, bytearray()
            return self.answer(
                200,
                location=f"http://{self.headers['host']}/upload/storage/v1/b/bucket/o?uploadType=resumable"
                f"&upload_id={number}",
            )
        elif kind == "multipart":
            kind = self.headers["content-type"].encode()
            message = BytesParser().parsebytes(b"Content-Type: " + kind + b"\r\n\r\n" + body)
            described, content = message.get_payload()
            name, body = json.loads(described.get_payload())["name"], content.get_payload(decode=True)
        else:
            name = query["name"]
        if status := self.bucket.refused(name, query):
            return self.answer(status)
        self.bucket.put(name, body)
        return self.answer(200, self.bucket.described(name))

    def one(self, name, query, verb, other):
        if status := self.bucket.refused(name, query) if self.command != "POST" else None:
            return self.answer(status)
        if name not in self.bucket.contents:
            return self.answer(404, {"error": {"code": 404, "message": "No such object"}})
        content, generation = self.bucket.contents[name]
        if self.command == "DELETE":
            del self.bucket.contents[name]
            return self.answer(204)
        if self.command == "POST":
            self.bucket.put(other, content)
            if verb.startswith("moveTo"):
                del self.bucket.contents[name]
            found = self.bucket.described(other)
            return self.answer(200, {"done": True, "resource": found} if verb.startswith("rewriteTo") else found)
        if query.get("alt") != "media":
            return self.answer(200, self.bucket.described(name))
        headers = {"x_goog_generation": generation, "x_goog_stored_content_length": len(content)}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")):
            first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            if first >= len(content):
                return self.answer(416)
            return self.answer(
                206, content[first : last + 1], content_range=f"bytes {first}-{last}/{len(content)}", **headers
            )
        return self.answer(200, content, **headers)

    def listing(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], []
        for name in sorted(self.bucket.contents):
            if (
                not name.startswith(prefix)
                or name < query.get("startOffset", "")
                or ("endOffset" in query and name >= query["endOffset"])
            ):
                continue
            below = name[len(prefix) :]
            if delimiter and delimiter in below:
                folder = prefix + below[: below.index(delimiter) + 1]
                prefixes += [folder] if folder not in prefixes else []
            else:
                items.append(self.bucket.described(name))
        self.answer(200, {"kind": "storage#objects", "items": items, "prefixes": prefixes})

    def batch(self, body):
        names = [unquote(name) for name in re.findall(r"DELETE /storage/v1/b/[^/]+/o/([^ ?]+)", body.decode())]
        answers = []
        for name in names:
            status = "204 No Content" if self.bucket.contents.pop(name, None) is not None else "404 Not Found"
            answers.append(f"--batch\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n")
        content = ("".join(answers) + "--batch--").encode()
        self.answer(200, content, content_type="multipart/mixed; boundary=batch")


class Server(ThreadingHTTPServer):
    """Serves a bucket, whatever its name."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), type("Handler", (Handler,), {"bucket": Bucket()}))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Pass over what is no error: a client that went away."""
