"""A server that says to W&B's own client what the client wants to hear: sweeps, agents, runs. Standard library only."""

import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

ENTITY, PROJECT, SWEEP = "tester", "razh", "swp12345"
KEY = "0123456789" * 4


class StubServer:
    """`with StubServer(trials) as server:`; `server.environment(folder)` points a client at it.

    Attributes:
        refused: GraphQL operations that are answered with an error.
        trials: argument dicts that an agent gets one after the other; then it is told to exit.
        sweeps: configurations of the sweeps that were created.
        runs: by run id, what `UpsertBucket` said of it.
        streamed: by run id, the names of the files whose lines arrived.
        artifacts: types of the artifacts that a client asked to create; it is refused, nothing is stored here.
        operations: names of all GraphQL operations, in order.
    """

    def __init__(self, trials=(), refused=()):
        self.refused, self.artifacts = refused, []
        self.trials, self.sweeps, self.runs, self.streamed, self.operations = list(trials), [], {}, {}, []
        self._given = 0
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                """Be silent."""

            def do_GET(self):
                self._reply({})

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path.endswith("/graphql"):
                    self._reply(stub.graphql(json.loads(body)))
                    return
                stream = re.search(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
                if stream:
                    found = stub.streamed.setdefault(stream[1], set())
                    found |= set((json.loads(body).get("files") or {}).keys())
                self._reply({"exitcode": None, "limits": {}})

            do_PUT = do_POST

            def _reply(self, value):
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, folder):
        """Return an environment for a client with settings and caches of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "RAZH_RUN"))}
        own = {f"WANDB_{kind}_DIR": str(folder / "wandb-private" / kind) for kind in ("CONFIG", "CACHE", "DATA")}
        return kept | own | {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "OMP_NUM_THREADS": "1"}

    def graphql(self, request):
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        name, variables = found[1] if found else "", request.get("variables") or {}
        self.operations.append(name)
        if name in self.refused:
            return {"errors": [{"message": f"{name} is refused"}], "data": None}
        project = {"id": "p", "name": PROJECT, "entity": {"id": "e", "name": ENTITY}}
        if name.startswith("Viewer"):
            viewer = {"id": "v", "username": ENTITY, "entity": ENTITY, "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        if name == "UpsertSweep":
            self.sweeps.append(yaml.safe_load(variables["config"]))
            return {
                "data": {"upsertSweep": {"sweep": {"name": SWEEP, "project": project}, "configValidationWarnings": []}}
            }
        if name == "SweepWithRuns":
            sweep = {"id": "s", "name": SWEEP, "state": "RUNNING", "config": yaml.safe_dump(self.sweeps[-1])}
            return {"data": {"project": {"sweep": sweep | {"runs": {"edges": []}}}}}
        if name == "CreateAgent":
            return {"data": {"createAgent": {"agent": {"id": "agent"}}}}
        if name == "Heartbeat":
            commands = self._commands(json.loads(variables.get("runState") or "{}"))
            return {"data": {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}}
        if name == "CreateArtifact":
            self.artifacts.append(variables.get("input", variables).get("artifactTypeName"))
        if name == "RunResumeStatus":
            return {"data": {"model": {"id": "p", "name": PROJECT, "entity": project["entity"], "bucket": None}}}
        if name == "UpsertBucket":
            run = variables["name"]
            self.runs.setdefault(run, {}).update({k: v for k, v in variables.items() if v is not None})
            bucket = {"id": run, "name": run, "displayName": variables.get("displayName") or run, "project": project}
            sweep = {"sweepName": variables.get("sweep")} if variables.get("sweep") else {}
            bucket |= {"historyLineCount": 0, "config": "{}"} | sweep
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        return {"errors": [{"message": f"the stub knows no {name}"}], "data": None}

    def _commands(self, running):
        if running:
            return []
        if self._given >= len(self.trials):
            return [{"type": "exit"}]
        values = {name: {"value": value} for name, value in self.trials[self._given].items()}
        self._given += 1
        program = self.sweeps[-1]["program"]
        return [{"type": "run", "run_id": f"trial{self._given:03d}", "program": program, "args": values}]
