"""As much of the Hugging Face Hub as pushing and pulling a file takes, on this machine.

Files live in memory; small ones come with a commit, others through the LFS upload, as on the Hub.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40


class Hub:
    """The repositories: name → file → content, and what was uploaded but not committed."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.uploaded: dict[str, bytes] = {}
        self.pages: list[str] = []
        self.url = ""

    def create(self, body):
        asked = json.loads(body)
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        self.repositories.setdefault(name, {})
        return {"url": f"{self.url}/{name}"}

    def validate(self, body):
        self.pages.append(json.loads(body)["content"])
        return {"errors": [], "warnings": []}

    def upload_modes(self, body):
        def mode(path):
            return "lfs" if path.endswith(".etx") else "regular"

        paths = [entry["path"] for entry in json.loads(body)["files"]]
        return {"files": [{"path": p, "uploadMode": mode(p), "shouldIgnore": False} for p in paths]}

    def lfs_batch(self, body):
        objects = json.loads(body)["objects"]
        for entry in objects:
            entry["actions"] = {"upload": {"href": f"{self.url}/upload/{entry['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def commit(self, repository, body):
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.repositories[repository][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.repositories[repository][value["path"]] = self.uploaded[value["oid"]]
        return {"commitOid": COMMIT, "commitUrl": f"{self.url}/{repository}/commit/{COMMIT}", "success": True}

    def post(self, path, body):
        """The answer to a POST."""
        if path == "/api/validate-yaml":
            return self.validate(body)
        if path == "/api/repos/create":
            return self.create(body)
        if path.endswith("/info/lfs/objects/batch"):
            return self.lfs_batch(body)
        owner, name, what = path.split("/")[3:6]  # /api/models/owner/name/what/main
        return self.upload_modes(body) if what == "preupload" else self.commit(f"{owner}/{name}", body)

    def get(self, path):
        """The answer to a GET: the list of a repository's files, a file, or what is not there."""
        parts = path.strip("/").split("/")
        if parts[0] == "api":  # /api/models/owner/name/tree/main
            files = self.repositories.get("/".join(parts[2:4]))
            if files is None:
                return "RepoNotFound"
            return [{"type": "file", "path": n, "size": len(c), "oid": COMMIT} for n, c in files.items()]
        files = self.repositories.get("/".join(parts[:2]))  # /owner/name/resolve/main/file
        if files is None:
            return "RepoNotFound"
        return files.get("/".join(parts[4:]), "EntryNotFound")


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def _body(self):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, body, status=200, headers=()):
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **dict(headers)}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_GET(self):
            found = hub.get(unquote(urlsplit(self.path).path))
            if isinstance(found, str):
                self._answer({"error": found}, 404, {"X-Error-Code": found, "X-Error-Message": found})
            elif isinstance(found, bytes):
                etag = hashlib.sha256(found).hexdigest()
                self._answer(found, headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            else:
                self._answer(found)

        do_HEAD = do_GET  # noqa: N815

        def do_PUT(self):
            hub.uploaded[self.path.rpartition("/")[2]] = self._body()
            self._answer(b"")

        def do_POST(self):
            self._answer(hub.post(urlsplit(self.path).path, self._body()))

    return Handler


@contextmanager
def serve_hub():
    """Run a Hub on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
