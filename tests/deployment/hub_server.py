"""A local model hub with the part of the real interface that uploads and downloads of models need."""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_right"


class Repository:
    """Commits from the oldest to the newest: names and the files after them."""

    def __init__(self, private):
        self.private, self.commits, self.titles = private, [], []

    def commit(self, title, files):
        files = {**(self.commits[-1][1] if self.commits else {}), **files}
        name = hashlib.sha1(f"{len(self.commits)}{title}".encode()).hexdigest()
        self.commits.append((name, files))
        self.titles.append(title)
        return name

    def at(self, revision):
        if revision == "main":
            return self.commits[-1] if self.commits else None
        return next((commit for commit in self.commits if commit[0] == revision), None)


class Hub:
    """The state of the hub that tests read and change.

    `repositories` by name, names of files that are `large` and go another way, that are `refused`, and a `log` of all requests.
    """

    def __init__(self):
        self.repositories, self.large, self.refused, self.log, self.blobs, self.address = {}, set(), set(), [], {}, None

    def make(self, name, files, private=False):
        self.repositories[name] = Repository(private)
        self.repositories[name].commit("first", files)


@contextlib.contextmanager
def hub_server():
    """Yield the `Hub` behind `hub.address`."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = unquote(urlsplit(self.path).path)
            hub.log.append((self.command, path))
            status, reply, headers = _answer(hub, self.command, path, body, self.headers)
            reply = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(reply)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply)

        do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def _answer(hub, method, path, body, headers):
    may_write = headers.get("authorization") == f"Bearer {TOKEN}"
    parts = path.strip("/").split("/")
    if path == "/api/validate-yaml":
        return _validate(json.loads(body)["content"])
    if parts[0] == "blobs":  # uploads and downloads of large files
        if method == "PUT":
            hub.blobs[parts[1]] = body
        return 200, hub.blobs.get(parts[1], b""), {"ETag": f'"{parts[1]}"'}
    if not may_write and method == "POST":
        return 401, {"error": "Invalid username or password."}, {}
    if path == "/api/repos/create":
        request = json.loads(body)
        name = f"{request['organization'] or 'someone'}/{request['name']}"
        address = {"url": f"{hub.address}/{name}", "name": name, "id": name}
        if name in hub.repositories:
            return 409, {"error": "You already created this model repo", **address}, {}
        hub.repositories[name] = Repository(request.get("private") or request.get("visibility") == "private")
        return 200, address, {}
    if parts[:2] == ["api", "models"] and len(parts) >= 4:
        return _api(hub, parts, body, may_write)
    if path.endswith(".git/info/lfs/objects/batch"):
        return _batch(hub, json.loads(body))
    if len(parts) >= 5 and parts[2] == "resolve":
        return _resolve(hub, parts, may_write)
    return 404, {"error": "Not Found"}, {}


def _validate(content):
    try:
        head = yaml.safe_load(content.split("---\n")[1])
        return (200, {"errors": [], "warnings": []}, {}) if isinstance(head, dict) else (400, {"errors": []}, {})
    except (IndexError, yaml.YAMLError) as error:
        return 400, {"errors": [{"message": str(error)}], "warnings": []}, {}


def _api(hub, parts, body, may_read):
    name = "/".join(parts[2:4])
    repository = hub.repositories.get(name)
    if repository is None or (repository.private and not may_read):
        return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
    if parts[4:5] == ["preupload"]:
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = ["lfs" if path in hub.large else "regular" for path in paths]
        files = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in zip(paths, modes, strict=True)]
        return 200, {"files": files}, {}
    if parts[4:5] == ["commit"]:
        lines = [json.loads(line) for line in body.splitlines()]
        files = {}
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "lfsFile":
                files[line["value"]["path"]] = hub.blobs[line["value"]["oid"]]
        made = repository.commit(lines[0]["value"]["summary"], files)
        return 200, {"commitUrl": f"{hub.address}/{name}/commit/{made}", "commitOid": made, "pullRequestUrl": None}, {}
    revision = parts[5] if parts[4:5] in (["revision"], ["tree"]) else "main"
    commit = repository.at(revision)
    if commit is None and revision != "main":
        return 404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"}
    if parts[4:5] == ["tree"]:
        files = commit[1] if commit else {}
        entries = [
            {"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for p, b in files.items()
        ]
        return 200, entries, {}
    siblings = [{"rfilename": path} for path in commit[1]] if commit else []
    return 200, {"id": name, "sha": commit and commit[0], "private": repository.private, "siblings": siblings}, {}


def _batch(hub, request):
    objects = [
        {**each, "actions": {"upload": {"href": f"{hub.address}/blobs/{each['oid']}"}}} for each in request["objects"]
    ]
    return 200, {"transfer": "basic", "objects": objects}, {}


def _resolve(hub, parts, may_read):
    repository = hub.repositories.get("/".join(parts[:2]))
    if repository is None or (repository.private and not may_read):
        # As in the real hub, the existence of a private repository is not revealed.
        return 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
    commit = repository.at(parts[3])
    if commit is None:
        return 404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"}
    name, files = commit
    path = "/".join(parts[4:])
    if path in hub.refused:
        return 403, {"error": "Forbidden"}, {}
    if path not in files:
        return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": name}
    etag = hashlib.sha256(files[path]).hexdigest()
    return 200, files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": name}
