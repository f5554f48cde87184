"""A server that answers what huggingface_hub asks of a hub: what is there, files, and commits of new ones."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """A model on the hub: what every branch and commit holds."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    commits: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], branch: str = "main", message: str = "") -> str:
        """Add files, and return the commit."""
        self.messages.append(message)
        whole = {**self.commits[self.branches[branch]], **files}
        number = hashlib.sha1(repr((sorted(whole.items()), self.messages)).encode()).hexdigest()
        self.commits[number] = whole
        self.branches[branch] = number
        return number

    def at(self, revision: str) -> str | None:
        """The commit that a branch or a commit is."""
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None


@dataclass
class FakeHub:
    """What the hub holds, how it misbehaves, and what it was asked.

    Attributes:
        url: its address.
        token: what may write, and read what is private.
        fails: the status that every request is answered with from now on.
        torn: files of which half is sent.
        asked: method and path of every request.
        licences: those whose names are known.
    """

    url: str = ""
    token: str = "hf_right"
    repositories: dict[str, Repository] = field(default_factory=dict)
    fails: int | None = None
    torn: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    licences: tuple[str, ...] = ("mit", "cc-by-nc-4.0", "other")

    def add(self, name: str, **files: bytes) -> str:
        """Put files (config_json for config.json) into a repository, made where it is not there; returns the commit."""
        repository = self.repositories.setdefault(name, Repository())
        return repository.commit({key[::-1].replace("_", ".", 1)[::-1]: value for key, value in files.items()})


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Nothing is printed."""

    def _answer(self, content: Any = b"", status: int = 200, head: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "Content-Type": "application/json", **(head or {})}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, text: str = "") -> None:
        self._answer({"error": text or code}, status, {"X-Error-Code": code, "X-Error-Message": text or code})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _any(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.fails is not None:
            return self._error(self.hub.fails, "Broken", "out of order")
        parts = path.strip("/").split("/")
        knows = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if parts[0] == "uploads":
            self.hub.uploads[parts[1]] = body
            return self._answer()
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body))
        if path == "/api/repos/create":
            return self._create(json.loads(body), knows)
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]).removesuffix(".git")
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not knows):
            return self._error(404 if knows else 401, "RepoNotFound", "Repository not found")
        if self.command in ("GET", "HEAD"):
            return self._read(name, repository, parts)
        if not knows:
            return self._error(403, "Forbidden", "you may not write here")
        return self._write(name, repository, parts, body)

    def _read(self, name: str, repository: Repository, parts: list[str]) -> None:
        revision = "main" if len(parts) < 4 else parts[3]
        if parts[0] == "api":
            revision = parts[5] if len(parts) > 5 else "main"
        commit = repository.at(revision)
        if commit is None:
            return self._error(404, "RevisionNotFound", f"no revision {revision}")
        files = repository.commits[commit]
        if parts[0] == "api":
            siblings = [{"rfilename": file} for file in files]
            return self._answer({"id": name, "sha": commit, "private": repository.private, "siblings": siblings})
        file = "/".join(parts[4:])
        head = {"X-Repo-Commit": commit}
        if file not in files:
            return self._answer(b"", 404, {**head, "X-Error-Code": "EntryNotFound"})
        content = files[file]
        head["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        if file in self.hub.torn and self.command == "GET":
            self._answer(content[: len(content) // 2], 200, {**head, "Content-Length": str(len(content))})
            self.close_connection = True
            return None
        return self._answer(content, 200, head)

    def _write(self, name: str, repository: Repository, parts: list[str], body: bytes) -> None:
        if parts[-1] == "batch":
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.url}/uploads/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._answer({"transfer": "basic", "objects": objects})
        if parts[4] == "branch":
            if parts[5] in repository.branches:
                return self._error(409, "Conflict", "there is such a branch")
            repository.branches[parts[5]] = repository.branches["main"]
            return self._answer()
        if parts[4] == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "lfs" if "safetensors" in one["path"] else "regular"}
                for one in json.loads(body)["files"]
            ]
            return self._answer({"files": [{**one, "shouldIgnore": False, "oid": None} for one in files]})
        lines = [json.loads(line) for line in body.splitlines()]
        new = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                new[value["path"]] = self.hub.uploads[value["oid"]]
        message = next(line["value"]["summary"] for line in lines if line["key"] == "header")
        commit = repository.commit(new, parts[5], message)
        return self._answer({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def _create(self, asked: dict[str, Any], knows: bool) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if not knows:
            return self._error(401, "Unauthorized", "Invalid username or password.")
        if asked["organization"] != "user":
            return self._error(403, "Forbidden", "you may not write to this name")
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[name] = Repository(private)
        return self._answer({"url": f"{self.hub.url}/{name}", "name": name})

    def _validate(self, asked: dict[str, Any]) -> None:
        import yaml

        values = yaml.safe_load([*asked["content"].split("---"), ""][1]) or {}
        wrong = "license" in values and values["license"] not in self.hub.licences
        errors = [{"message": '"license" must be one of those that are known'}] if wrong else []
        return self._answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    do_GET = do_HEAD = do_POST = do_PUT = _any


@contextlib.contextmanager
def serving() -> Iterator[FakeHub]:
    """A hub on this machine for as long as the block lasts."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
