"""openapi.yaml and the server say the same, both ways.

Every (route, method, status) of the document is provoked once; the reply is held against its
schema. A status that comes and is not in the document, a route that only one of the two knows, and
a field that no schema names are failures, as is a documented status that nothing here provokes.

The argument is the program that prints the server's own routes.
"""

import json
import re
import signal
import subprocess
import sys
import threading
import time
import unittest
import urllib.parse

import support
from rest_client import Rest
from support import Server, Worker

try:
    import jsonschema
    import yaml
except ImportError as missing:
    support.skip(f"{missing.name} is not installed (python3-jsonschema, python3-yaml)")

ROUTES_PROGRAM = sys.argv.pop() if len(sys.argv) > 1 else None
METHODS = ("get", "put", "post", "delete")
NPY = b"\x93NUMPY\x01\x00v\x00" + b"%-117s\n" % (
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }") + bytes(16)
JSON = {"Content-Type": "application/json"}


def load():
    with open(support.SOURCE / "openapi.yaml", encoding="utf-8") as file:
        return yaml.safe_load(file)


class Document:
    """openapi.yaml, its references followed."""

    def __init__(self):
        self.tree = load()

    def follow(self, node):
        while "$ref" in node:
            target = self.tree
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            node = target
        return node

    def operations(self):
        for path, item in self.tree["paths"].items():
            for method in METHODS:
                if method in item:
                    shared = item.get("parameters", [])
                    yield path, method.upper(), item[method], shared

    def responses(self, operation):
        return {status: self.follow(response)
                for status, response in operation["responses"].items() if status != "default"}

    def check(self, schema, value):
        whole = {"$ref": "#/schema", "schema": schema, "components": self.tree["components"]}
        jsonschema.Draft202012Validator(whole).validate(value)


DOCUMENT = Document()
OPERATIONS = {(path, method): operation for path, method, operation, _ in DOCUMENT.operations()}


class World:
    """Servers in the states that the statuses need."""

    def __init__(self):
        self.usual = Server("--num-workers", "2", "--max-memory", "64MiB")
        self.bare = Server()  # its store "default" is deleted
        self.leaving = Server("--drain-delay", "60s", exit_code=9)
        self.rest = Rest(self.usual.http)
        self.bare_rest = Rest(self.bare.http)
        self.bare_rest.delete("/v1/stores/default")
        self.worker = Worker(self.usual.grpc, name="anna", rank=0)
        self.team_worker = None
        self.prepare()
        self.leaving.process.send_signal(signal.SIGTERM)

    def prepare(self):
        self.rest.post("/v1/stores", {"name": "team", "num_workers": 2})
        self.team_worker = Worker(self.usual.grpc, store="team", name="anna", rank=0)
        for prefix in ["/v1", "/v1/stores/team"]:
            for key in ["w", "a%2Fb"]:
                self.rest.put(f"{prefix}/keys/{key}/value", NPY)
            self.rest.put(f"{prefix}/optimizer", {"name": "sgd", "learning_rate": 0.1})

    def close(self):
        self.worker.close()
        self.team_worker.close()
        for server in [self.usual, self.bare]:
            server.__exit__(None, None, None)
        self.leaving.process.send_signal(signal.SIGTERM)
        self.leaving.process.wait(20)
        self.leaving.__exit__(None, None, None)


def safetensors(header):
    return len(header).to_bytes(8, "little") + header.encode()


def good_body(operation):
    """A body and headers that the operation takes."""
    bodies = {
        "CreateStore": {"name": "made"},
        "EnterBarrier": {"rank": 0, "timeout_ms": 100},
        "SendCommand": {"head": 7, "body": "x"},
        "SetOptimizer": {"name": "sgd", "learning_rate": 0.1},
        "SetCompression": {"type": "2bit", "threshold": 0.5},
    }
    name = operation["operationId"].removesuffix("Default")
    if name == "PutValue":
        return NPY, {}
    if name == "LoadOptimizerStates":
        return safetensors("{}"), {}
    return (json.dumps(bodies[name]).encode(), JSON) if name in bodies else (None, {})


class Provoke:
    """What brings about each status: one method a status, asked with the path filled in."""

    def __init__(self, world):
        self.world = world

    def fill(self, path, store="team", key="w"):
        return path.replace("{store}", store).replace("{key}", urllib.parse.quote(key, safe=""))

    def usual(self, path, method, operation, query="", headers=None, body=None, **filled):
        good, good_headers = good_body(operation)
        body = good if body is None else body
        if "?" not in query and operation["operationId"].startswith("GetRank"):
            query = "?worker=anna"
        return self.world.rest.ask(method, self.fill(path, **filled) + query, body,
                                   {**good_headers, **(headers or {})})

    def ask(self, path, method, operation, status):
        name = operation["operationId"].removesuffix("Default")
        special = getattr(self, f"{name}_{status}", None)
        general = getattr(self, f"any_{status}", None)
        found = special or general
        return found(path, method, operation) if found else None

    # -------------------------------------------------------------- statuses of every operation

    def any_200(self, path, method, operation):
        return self.usual(path, method, operation)

    def any_400(self, path, method, operation):
        return self.usual(path, method, operation, query="?%zz")

    def any_406(self, path, method, operation):
        return self.usual(path, method, operation, headers={"Accept": "image/png"})

    def any_421(self, path, method, operation):
        return self.usual(path, method, operation, headers={"Host": "evil.example"})

    def any_422(self, path, method, operation):
        return self.usual(path, method, operation, query="?unknown=1")

    def any_404(self, path, method, operation):
        if "{store}" in path:
            return self.usual(path, method, operation, store="none")
        body, headers = good_body(operation)
        query = "?worker=anna" if operation["operationId"].startswith("GetRank") else ""
        return self.world.bare_rest.ask(method, self.fill(path) + query, body, headers)

    def any_413(self, path, method, operation):
        return self.world.rest.ask(method, self.fill(path), None,
                                   {**JSON, "Content-Length": str(1 << 21)})

    def any_415(self, path, method, operation):
        return self.usual(path, method, operation, headers={"Content-Type": "text/plain"})

    def any_501(self, path, method, operation):
        return self.usual(path, method, operation)

    # -------------------------------------------------------------- and of single ones

    def Readyz_503(self, path, method, _operation):
        rest = Rest(self.world.leaving.http)
        end = time.monotonic() + 10
        while (reply := rest.ask(method, path)).status == 200 and time.monotonic() < end:
            time.sleep(0.01)
        return reply

    def CreateStore_201(self, path, method, operation):
        return self.usual(path, method, operation)

    def CreateStore_409(self, path, method, operation):
        return self.usual(path, method, operation,
                          body=b'{"name": "team", "num_workers": 3}')

    def DeleteStore_204(self, path, method, operation):
        self.world.rest.post("/v1/stores", {"name": "gone"})
        return self.usual(path, method, operation, store="gone")

    def GetValue_206(self, path, method, operation):
        return self.usual(path, method, operation, headers={"Range": "bytes=1-9"})

    def GetValue_304(self, path, method, operation):
        return self.usual(path, method, operation, headers={"If-None-Match": "*"})

    def GetValue_416(self, path, method, operation):
        return self.usual(path, method, operation, headers={"Range": "bytes=9999-"})

    def PutValue_201(self, path, method, operation):
        return self.usual(path, method, operation, key="new")

    def PutValue_409(self, path, method, operation):
        return self.usual(path, method, operation, query="?format=raw&dtype=f32&shape=5",
                          body=bytes(20))

    def PutValue_412(self, path, method, operation):
        return self.usual(path, method, operation, headers={"If-Match": '"0-0"'})

    def PutValue_413(self, path, method, _operation):
        return self.world.rest.ask(method, self.fill(path), None,
                                   {"Content-Length": str(1 << 40)})

    def PutValue_429(self, path, method, operation):
        return self.usual(path, method, operation, key="huge",
                          query="?format=raw&dtype=f32&shape=18000000", body=bytes(72000000))

    def GetOptimizer_304(self, path, method, operation):
        return self.usual(path, method, operation, headers={"If-None-Match": "*"})

    def SetOptimizer_412(self, path, method, operation):
        return self.usual(path, method, operation, headers={"If-Match": '"0"'})

    def SaveOptimizerStates_206(self, path, method, operation):
        return self.usual(path, method, operation, headers={"Range": "bytes=1-9"})

    def SaveOptimizerStates_304(self, path, method, operation):
        return self.usual(path, method, operation, headers={"If-None-Match": "*"})

    def SaveOptimizerStates_409(self, path, method, operation):
        return self.without_optimizer(path, method, operation)

    def SaveOptimizerStates_416(self, path, method, operation):
        return self.usual(path, method, operation, headers={"Range": "bytes=9999-"})

    def without_optimizer(self, path, method, operation, body=None):
        """The store's optimizer is taken away and given back."""
        optimizer = self.fill(path).removesuffix("/states")
        self.world.rest.put(optimizer, b"null", **JSON)
        reply = self.usual(path, method, operation, body=body)
        self.world.rest.put(optimizer, {"name": "sgd", "learning_rate": 0.1})
        return reply

    def LoadOptimizerStates_200(self, path, method, operation):
        return self.usual(path, method, operation, body=self.world.rest.get(self.fill(path)).body)

    def LoadOptimizerStates_409(self, path, method, operation):
        return self.usual(path, method, operation, body=safetensors("{}"))

    def LoadOptimizerStates_413(self, path, method, operation):
        return self.usual(path, method, operation, body=bytes([255] * 8))

    def LoadOptimizerStates_429(self, path, method, operation):
        rest = self.world.rest
        huge = json.dumps({"name": "sgd", "momentum": 0.9})
        rest.post("/v1/stores", {"name": "huge"})
        rest.put("/v1/stores/huge/keys/k/value?format=raw&dtype=f32&shape=9000000",
                 bytes(36000000))
        head = safetensors(json.dumps({
            "__metadata__": {"kvstored.optimizer": huge},
            "k::step": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
            "k::momentum_buffer": {"dtype": "F32", "shape": [9000000],
                                   "data_offsets": [8, 36000008]}}))
        reply = rest.ask(method, "/v1/stores/huge/optimizer/states", head + bytes(36000008))
        rest.delete("/v1/stores/huge")
        return reply

    def LoadOptimizerStates_501(self, path, method, operation):
        later = safetensors('{"__metadata__":{"kvstored.format":"2"}}')
        return self.usual(path, method, operation, body=later)

    def EnterBarrier_200(self, path, method, operation):
        other = threading.Thread(target=lambda: self.usual(
            path, method, operation, body=b'{"name": "meet", "rank": 1, "timeout_ms": 10000}'))
        other.start()
        reply = self.usual(path, method, operation,
                           body=b'{"name": "meet", "rank": 0, "timeout_ms": "10000"}')
        other.join(15)
        return reply

    def EnterBarrier_409(self, path, method, operation):
        rest = self.world.rest
        rest.post("/v1/stores", {"name": "doomed", "num_workers": 2})
        replies = []
        waiting = threading.Thread(target=lambda: replies.append(self.usual(
            path, method, operation, store="doomed", body=b'{"timeout_ms": 10000}')))
        waiting.start()
        end = time.monotonic() + 5
        while not rest.get("/v1/stores/doomed/barriers").json["barriers"]:
            if time.monotonic() > end:
                return None
            time.sleep(0.01)
        rest.delete("/v1/stores/doomed")
        waiting.join(15)
        return replies[0]

    def EnterBarrier_504(self, path, method, operation):
        return self.usual(path, method, operation, body=b'{"rank": 0, "timeout_ms": 50}')

    def SendCommand_409(self, path, method, operation):
        self.world.rest.post("/v1/stores", {"name": "free", "type": "dist_async"})
        reply = self.usual(path, method, operation, store="free", body=b'{"head": 3}')
        self.world.rest.delete("/v1/stores/free")
        return reply

    def SendCommand_204(self, path, method, operation):
        return self.usual(path, method, operation)


class OpenApi(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World()
        cls.provoke = Provoke(cls.world)

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def check_reply(self, reply, operation, status):
        """The reply is one that the document describes."""
        responses = DOCUMENT.responses(operation)
        self.assertIn(str(reply.status), responses, f"undocumented: {reply}")
        self.assertEqual(str(reply.status), status, reply)
        response = responses[status]
        for name, header in response.get("headers", {}).items():
            header = DOCUMENT.follow(header)
            self.assertIsNotNone(reply.headers[name], name)
            DOCUMENT.check(header["schema"], reply.headers[name])
        content = response.get("content")
        if content is None:
            self.assertEqual((reply.body, reply.headers["Content-Type"]), (b"", None))
            return
        self.assertIn(reply.type, content)
        schema = content[reply.type]["schema"]
        if reply.type.endswith("json"):
            DOCUMENT.check(schema, reply.json)
        else:
            self.assertEqual(schema["type"], "string")
            self.assertGreater(len(reply.body), 0)
        if reply.type == "application/problem+json":
            self.assertEqual(reply.json["status"], reply.status)

    def test_every_documented_status_of_every_route_comes_as_described(self):
        # What changes things for the others comes last.
        order = sorted(OPERATIONS.items(), key=lambda item: item[0][1] == "DELETE")
        for (path, method), operation in order:
            for status in DOCUMENT.responses(operation):
                with self.subTest(method=method, path=path, status=status):
                    reply = self.provoke.ask(path, method, operation, status)
                    self.assertIsNotNone(reply, "nothing here provokes it")
                    self.check_reply(reply, operation, status)

    def test_the_routes_of_document_and_server_are_the_same(self):
        if ROUTES_PROGRAM is None:
            self.skipTest("the program that prints the routes was not named")
        text = subprocess.run([ROUTES_PROGRAM], capture_output=True, text=True, check=True).stdout
        served = {}
        for line in text.splitlines():
            method, path, operation, *queries = line.split()
            short = path.startswith("/v1/") and not path.startswith("/v1/stores")
            served[path, method] = (operation + ("Default" if short else ""), sorted(queries))
        described = {}
        for path, method, operation, shared in DOCUMENT.operations():
            parameters = [DOCUMENT.follow(p) for p in shared + operation.get("parameters", [])]
            queries = sorted(p["name"] for p in parameters if p["in"] == "query")
            described[path, method] = (operation["operationId"], queries)
            self.assertEqual(sorted(re.findall(r"\{(\w+)\}", path)),
                             sorted(p["name"] for p in parameters if p["in"] == "path"), path)
        self.assertEqual(served, described)

    def test_every_path_refuses_methods_that_it_does_not_have(self):
        for path in {path for path, _ in OPERATIONS}:
            has = {method for p, method in OPERATIONS if p == path}
            for method in {"GET", "PUT", "POST", "DELETE", "PATCH"} - has:
                reply = self.world.rest.ask(method, self.provoke.fill(path))
                self.assertEqual(reply.status, 405, (method, path))
                allowed = set(reply.headers["Allow"].split(", ")) - {"HEAD", "OPTIONS"}
                self.assertEqual(allowed, has, path)

    def test_operations_are_methods_of_the_admin_service(self):
        with open(support.SOURCE / "api" / "kvstored.proto", encoding="utf-8") as file:
            service = file.read().split("service Admin {")[1].split("\n}")[0]
        methods = set(re.findall(r"rpc (\w+)\(", service))
        pages = {"Index", "Livez", "Readyz", "Metrics", "OpenApi"}
        operations = {o["operationId"].removesuffix("Default") for o in OPERATIONS.values()}
        self.assertEqual(operations - pages, methods)

    def test_the_server_hands_out_this_very_file(self):
        with open(support.SOURCE / "openapi.yaml", "rb") as file:
            self.assertEqual(self.world.rest.get("/openapi.yaml").body, file.read())

    def test_examples_fit_their_schemas(self):
        for operation in OPERATIONS.values():
            for media in operation.get("requestBody", {}).get("content", {}).values():
                if "example" in media:
                    DOCUMENT.check(media["schema"], media["example"])

    def test_every_component_is_used_and_every_schema_is_one(self):
        text = json.dumps(DOCUMENT.tree)
        for kind, parts in DOCUMENT.tree["components"].items():
            for name in parts:
                self.assertIn(f'"#/components/{kind}/{name}"', text)
        for schema in DOCUMENT.tree["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(schema)


if __name__ == "__main__":
    support.main()
