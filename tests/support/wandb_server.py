"""As much of a W&B server as `wandb sync` talks to, on the loopback interface, and what it was sent.

It speaks W&B's own HTTP: GraphQL for runs and artifacts, a stream of lines for history and summary, puts of files. What
it does not know it answers with an empty object, and keeps in `unknown`.
"""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")


@dataclass
class SentRun:
    """What the server was told of one run."""

    variables: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    complete: bool = False


class Server:
    """`mode` says how it behaves: 'accepts', 'hangs', or an HTTP status that it answers everything with; `refused` names
    a mutation that gets an error."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.mode = "accepts"
        self.refused = ""
        self.runs: dict[str, SentRun] = {}
        self.artifacts: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.unknown: list[str] = []
        self.lock = threading.Lock()
        self.closed = threading.Event()

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        match = _OPERATION.search(query)
        name = match[1] if match else query[:40]
        answer = getattr(self, f"_{name}", None)
        if answer is None:
            self.unknown.append(name)
            return {}
        data: dict[str, Any] = answer(variables)
        return data

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(variables["name"], SentRun())
        run.variables |= {name: value for name, value in variables.items() if value is not None}
        project = {
            "id": "project",
            "name": variables["project"],
            "entity": {"id": "entity", "name": variables["entity"] or "ada"},
        }
        bucket = {
            "id": f"bucket-{variables['name']}", "name": variables["name"], "displayName": "", "description": "",
            "config": "{}", "sweepName": None, "historyLineCount": 0, "project": project,
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/put/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": f"bucket-{run}", "uploadHeaders": [], "files": files}}

    def _CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["input"]["artifactCollectionName"]
        self.artifacts[name] = "PENDING"
        return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": None}}}

    def _CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["artifactID"]
        file = {"id": "file", "name": "manifest", "displayName": "manifest", "uploadHeaders": []}
        file["uploadUrl"] = f"{self.url}/put/{name}/manifest"
        return {"createArtifactManifest": {"artifactManifest": {"id": f"manifest-{name}", "file": file}}}

    def _CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "id": "file", "name": wanted["name"], "displayName": wanted["name"], "uploadHeaders": [],
                "uploadUrl": f"{self.url}/put/{wanted['artifactID']}/{wanted['name']}", "uploadMultipartUrls": None,
                "storagePath": f"wandb/{wanted['name']}", "artifact": {"id": wanted["artifactID"]},
            }
            for wanted in variables["input"]["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _UpdateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "file", "uploadUrl": f"{self.url}/put/manifest/{variables['name']}", "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": variables["artifactManifestID"], "file": file}}}

    def _ServerFeaturesQuery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[variables["artifactID"]] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "digest"}}}

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        for name, chunk in sent.get("files", {}).items():
            lines = [json.loads(line) for line in chunk["content"]]
            if name == "wandb-history.jsonl":
                # A line that is sent again takes its own place.
                self.runs[run].history[chunk["offset"] : chunk["offset"] + len(lines)] = lines
            if name == "wandb-summary.json" and lines:
                self.runs[run].summary = lines[-1]
        if "exitcode" in sent:
            self.runs[run].exit_code, self.runs[run].complete = sent["exitcode"], bool(sent.get("complete"))


@contextmanager
def server() -> Iterator[Server]:
    """A server of its own, that accepts everything."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self._body()
            with here.lock:
                here.requests.append((self.command, self.path, body))
                here.headers.append(dict(self.headers))
            if here.mode == "hangs":
                here.closed.wait(600)
                self.close_connection = True
                return
            if here.mode != "accepts":
                self._send(int(here.mode), {"errors": [{"message": f"you get {here.mode}"}]})
                return
            with here.lock:
                self._send(200, self._accept(body))

        do_GET = do_POST = do_PUT = answer

        def _accept(self, body: bytes) -> dict[str, Any]:
            parts = self.path.split("?")[0].strip("/").split("/")
            if self.path == "/graphql":
                asked = json.loads(body)
                if here.refused and f"mutation {here.refused} " in asked["query"]:
                    return {"errors": [{"message": f"{here.refused} is refused"}]}
                return {"data": here.graphql(asked["query"], asked.get("variables") or {})}
            if parts[-1] == "file_stream":
                here.stream(parts[-2], json.loads(body))
            elif parts[0] == "put":
                here.files["/".join(parts[1:])] = body
            return {}

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while (length := int(self.rfile.readline().strip() or b"0", 16)) > 0:
                    body += self.rfile.read(length)
                    self.rfile.readline()
                self.rfile.readline()
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _send(self, status: int, answer: dict[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        here = Server(listener.server_address[1])
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield here
        finally:
            here.closed.set()
            listener.shutdown()
