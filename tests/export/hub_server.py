"""As much of the Hugging Face Hub as uploading files and getting them again needs, on loopback."""

import base64
import hashlib
import http.server
import json
import threading

COMMIT = "c" * 40


class HubServer:
    """Repositories by name, each with its files, and the requests that came with their token."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.refuse = False
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(b"")

            def do_GET(self):
                self.answer(b"")

            def do_POST(self):
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.answer(body)

            def answer(self, body):
                hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
                parts = self.path.partition("?")[0].strip("/").split("/")
                if self.command == "POST":
                    return self.post(parts, body)
                if parts[:2] == ["api", "models"]:
                    name = "/".join(parts[2:4])
                    if name not in hub.repositories:
                        return self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
                    return self.reply(200, {"id": name, "sha": COMMIT, "siblings": [
                        {"rfilename": file} for file in hub.repositories[name]]})  # fmt: skip
                name, file = "/".join(parts[:2]), "/".join(parts[4:])
                if name not in hub.repositories:
                    return self.reply(401, {}, {"X-Error-Code": "RepoNotFound"})
                content = hub.repositories[name].get(file)
                if content is None:
                    return self.reply(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                digest = hashlib.sha256(content).hexdigest()
                return self.reply(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"'})

            def post(self, parts, body):
                if hub.refuse:
                    return self.reply(403, {"error": "You have no right to write here"})
                if parts == ["api", "repos", "create"]:
                    asked = json.loads(body)
                    name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                    hub.repositories.setdefault(name, {})
                    hub.private[name] = asked.get("private") or asked.get("visibility") == "private"
                    return self.reply(200, {"url": f"{hub.endpoint}/{name}", "id": name, "name": name})
                if parts[:2] == ["api", "validate-yaml"] or "validate-yaml" in parts:
                    return self.reply(200, {"errors": [], "warnings": []})
                name = "/".join(parts[2:4])
                if "preupload" in parts:
                    return self.reply(200, {"files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                        for file in json.loads(body)["files"]]})  # fmt: skip
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.repositories[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                return self.reply(200, {"commitUrl": f"{hub.endpoint}/{name}/commit/{COMMIT}", "commitOid": COMMIT,
                                        "pullRequestUrl": None, "success": True})  # fmt: skip

            def reply(self, status, content, headers=None):
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
