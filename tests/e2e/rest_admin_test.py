"""The admin plane by REST: stores, workers, keys, optimizer, barriers, rounds, commands."""

import collections
import json
import os
import socket
import tempfile
import threading
import time

import support
from rest_client import Rest
from support import Case, Server, Worker, pb

U64 = "18446744073709551615"


class Admin(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--num-workers", "2")
        cls.rest = Rest(cls.server.http)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def store(self, name, **fields):
        reply = self.rest.post("/v1/stores", {"name": name, **fields})
        self.assertEqual(reply.status, 201, reply)
        return reply.json

    def test_the_default_store_has_short_forms(self):
        for path in ["type", "num_workers", "workers", "keys", "optimizer", "rounds"]:
            short = self.rest.get(f"/v1/{path}")
            self.assertEqual(short.status, 200)
            self.assertEqual(short.json, self.rest.get(f"/v1/stores/default/{path}").json)
        self.assertEqual(self.rest.get("/v1/type").json, {"type": "dist_sync"})
        self.assertEqual(self.rest.get("/v1/num_workers").json, {"num_workers": 2})

    def test_a_store_is_created_listed_and_deleted(self):
        made = self.store("made", type="dist_async", num_workers=3, policy="shrink",
                          lease_ms=5000, round_deadline_ms="7000")
        self.assertEqual((made["type"], made["num_workers"], made["policy"], made["lease_ms"],
                          made["round_deadline_ms"]), ("dist_async", 3, "shrink", "5000", "7000"))
        self.assertIn("made", [s["name"] for s in self.rest.get("/v1/stores").json["stores"]])
        self.assertEqual(self.rest.get("/v1/stores/made").json["name"], "made")
        self.assertEqual(self.rest.delete("/v1/stores/made").status, 204)
        gone = self.rest.get("/v1/stores/made")
        self.assertEqual((gone.status, gone.reason), (404, "STORE_NOT_FOUND"))
        self.assertEqual(self.rest.delete("/v1/stores/made").status, 404)

    def test_an_equal_store_is_the_same_and_another_is_refused(self):
        self.store("equal", num_workers=2)
        self.store("equal", num_workers=2)
        other = self.rest.post("/v1/stores", {"name": "equal", "num_workers": 3})
        self.assertEqual((other.status, other.reason), (409, "STORE_EXISTS"))

    def test_wrong_fields_of_a_store_are_named(self):
        cases = [
            ({"name": "x", "num_workers": 5000}, "/num_workers"),
            ({"name": "x", "num_workers": "many"}, "/num_workers"),
            ({"name": "x", "num_workers": -1}, "/num_workers"),
            ({"name": "x", "policy": "maybe"}, "/policy"),
            ({"name": "x", "type": "local"}, "/type"),
            ({"name": "x", "num_worker": 2}, "/num_worker"),
            ({"name": "x", "lease_ms": U64}, "/lease_ms"),
            ({"name": 7}, "/name"),
        ]
        for body, pointer in cases:
            with self.subTest(body=body):
                reply = self.rest.post("/v1/stores", body)
                self.assertEqual((reply.status, reply.reason), (422, "INVALID_FIELD"), reply)
                self.assertIn(pointer, [error["pointer"] for error in reply.json["errors"]])
        for name in ["../x", ".x", "a b", "x" * 129]:
            self.assertEqual(self.rest.post("/v1/stores", {"name": name}).status, 422, name)

    def test_lists_come_in_pages(self):
        for i in range(5):
            self.store(f"page{i}")
        names, token = [], ""
        while True:
            page = self.rest.get(f"/v1/stores?page_size=2&page_token={token}").json
            self.assertLessEqual(len(page["stores"]), 2)
            names += [store["name"] for store in page["stores"]]
            token = page["next_page_token"]
            if not token:
                break
        self.assertEqual([n for n in names if n.startswith("page")],
                         [f"page{i}" for i in range(5)])
        self.assertEqual(self.rest.get("/v1/stores?page_token=x").status, 422)
        self.assertEqual(self.rest.get("/v1/stores?page_size=1001").status, 422)

    def test_keys_are_listed_by_prefix_in_pages(self):
        self.store("keys")
        for key in ["b", "a/2", "a/10", "a/1", "c"]:
            reply = self.rest.put(f"/v1/stores/keys/keys/{key.replace('/', '%2F')}/value"
                                  "?dtype=u8&shape=1", b"x")
            self.assertEqual(reply.status, 201)
        first = self.rest.get("/v1/stores/keys/keys?prefix=a/&page_size=2").json
        self.assertEqual([key["key"] for key in first["keys"]], ["a/1", "a/10"])
        second = self.rest.get("/v1/stores/keys/keys?prefix=a%2F&page_size=2"
                               f"&page_token={first['next_page_token']}").json
        self.assertEqual([key["key"] for key in second["keys"]], ["a/2"])
        self.assertEqual(second["next_page_token"], "")

    def test_the_optimizer_is_set_read_and_taken_away(self):
        self.store("opt")
        path = "/v1/stores/opt/optimizer"
        none = self.rest.get(path)
        self.assertEqual((none.status, none.json), (200, None))
        put = self.rest.put(path, {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9,
                                   "wd": 1e-4, "lr_mult": {"fc.bias": 2.0},
                                   "lr_scheduler": {"name": "factor", "step": 100,
                                                    "factor": 0.9}})
        self.assertEqual(put.status, 200, put)
        self.assertEqual((put.json["name"], put.json["momentum"], put.json["rules"]),
                         ("sgd", 0.9, "1.9"))
        got = self.rest.get(path)
        self.assertEqual((got.json, got.headers["ETag"]), (put.json, put.headers["ETag"]))
        # What is read can be written back.
        again = self.rest.put(path, got.json)
        self.assertEqual((again.status, again.headers["ETag"]), (200, got.headers["ETag"]))
        self.assertEqual(self.rest.get(path, If_None_Match=got.headers["ETag"]).status, 304)
        self.assertEqual(self.rest.get("/v1/stores/opt").json["optimizer"], "sgd")
        away = self.rest.put(path, b"null", Content_Type="application/json")
        self.assertEqual((away.status, away.json), (200, None), away)

    def test_if_match_guards_the_optimizer(self):
        self.store("guard")
        path = "/v1/stores/guard/optimizer"
        none = self.rest.get(path).headers["ETag"]
        self.assertEqual(self.rest.put(path, {"name": "sgd"}, If_Match="*").status, 412)
        first = self.rest.put(path, {"name": "sgd", "learning_rate": 0.1}, If_Match=none)
        self.assertEqual(first.status, 200)
        stale = self.rest.put(path, {"name": "sgd", "learning_rate": 0.2}, If_Match=none)
        self.assertEqual((stale.status, stale.reason), (412, "ETAG_MISMATCH"))
        self.assertEqual(self.rest.get(path).json["learning_rate"], 0.1)
        next_ = self.rest.put(path, {"name": "adam"}, If_Match=first.headers["ETag"])
        self.assertEqual((next_.status, next_.json["name"]), (200, "adam"))

    def test_wrong_fields_of_an_optimizer_are_named_and_nothing_changes(self):
        self.store("wrong")
        path = "/v1/stores/wrong/optimizer"
        self.rest.put(path, {"name": "sgd", "learning_rate": 0.5})
        reply = self.rest.put(path, {"name": "sgd", "learning_rate": "fast", "momentun": 1})
        self.assertEqual(reply.status, 422)
        self.assertEqual({error["pointer"] for error in reply.json["errors"]},
                         {"/learning_rate", "/momentun"})
        for body in [[], "sgd", {}, 7]:
            self.assertEqual(self.rest.put(path, body).status, 422, body)
        self.assertEqual(self.rest.get(path).json["learning_rate"], 0.5)

    def test_the_optimizer_works_on_what_workers_push(self):
        self.store("train", num_workers=1)
        self.rest.put("/v1/stores/train/optimizer", {"name": "sgd", "learning_rate": 0.5})
        with Worker(self.server.grpc, store="train") as worker:
            worker.init("w", [4], [1.0] * 4)
            worker.push("w", [1.0] * 4)
            self.assertEqual(worker.pull("w"), {"w": [0.5] * 4})
        key = self.rest.get("/v1/stores/train/keys/w").json
        self.assertEqual(key["version"]["count"], "1")
        raw = self.rest.get("/v1/stores/train/keys/w/value?format=raw")
        self.assertEqual(support.unpack(raw.body), [0.5] * 4)
        counts = self.rest.get("/v1/stores/train/statistics").json
        self.assertEqual((counts["parts_pushed"], counts["bytes_pushed"],
                          counts["rounds_closed"]), ("1", "16", "1"), counts)
        text = self.rest.get("/metrics").body.decode()
        self.assertIn('kvstored_parts_pushed_total{store="train"} 1', text)

    def test_workers_are_listed_and_found_by_name_and_session(self):
        self.store("team", num_workers=2)
        with Worker(self.server.grpc, store="team", name="anna", rank=1) as anna:
            rows = self.rest.get("/v1/stores/team/workers").json["workers"]
            self.assertEqual([(row["name"], row["rank"], row["state"]) for row in rows],
                             [("anna", 1, "live")])
            for word in ["anna", anna.session.hex(), anna.session.hex()[:8]]:
                found = self.rest.get(f"/v1/stores/team/rank?worker={word}")
                self.assertEqual((found.status, found.json), (200, {"rank": 1}), word)
            self.assertNotIn(anna.session.hex(), str(rows))
        missing = self.rest.get("/v1/stores/team/rank?worker=bert")
        self.assertEqual((missing.status, missing.reason), (404, "WORKER_NOT_FOUND"))
        self.assertEqual(self.rest.get("/v1/stores/team/rank").status, 422)

    def test_an_open_round_names_who_is_missing(self):
        self.store("round", num_workers=2)
        with Worker(self.server.grpc, store="round", rank=0) as one, \
                Worker(self.server.grpc, store="round", rank=1) as two:
            one.init("w", [4], [0.0] * 4)
            two.init("w", [4], [0.0] * 4)
            pushing = threading.Thread(target=lambda: two.push("w", [1.0] * 4))
            pushing.start()
            end = time.monotonic() + 5
            while (rounds := self.rest.get("/v1/stores/round/rounds").json)["open"] == "0":
                self.assertLess(time.monotonic(), end)
                time.sleep(0.01)
            row = rounds["rounds"][0]
            self.assertEqual((row["key"], row["part"], row["arrived_ranks"],
                              row["missing_ranks"]), ("w", "0", [1], [0]))
            one.push("w", [2.0] * 4)
            pushing.join(10)
            self.assertEqual(self.rest.get("/v1/stores/round/rounds").json["open"], "0")
            self.assertEqual(one.pull("w"), {"w": [3.0] * 4})

    def test_a_barrier_lets_everybody_go_at_the_last_rank(self):
        self.store("barrier", num_workers=2)
        path = "/v1/stores/barrier/barriers"
        replies = []
        first = threading.Thread(
            target=lambda: replies.append(self.rest.post(path, {"rank": 1, "name": "b"})))
        first.start()
        end = time.monotonic() + 5
        while not (rows := self.rest.get(path).json["barriers"]):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        self.assertEqual((rows[0]["name"], rows[0]["arrived"], rows[0]["missing_ranks"]),
                         ("b", 1, [0]))
        replies.append(self.rest.post(path, {"rank": 0, "name": "b"}))
        first.join(10)
        self.assertEqual([reply.status for reply in replies], [200, 200], replies)
        self.assertEqual(sorted(reply.json["arrival_index"] for reply in replies), [0, 1])

    def test_a_barrier_ends_at_its_timeout_with_the_missing_rank(self):
        self.store("late", num_workers=2)
        begun = time.monotonic()
        reply = self.rest.post("/v1/stores/late/barriers", {"rank": 0, "timeout_ms": 300})
        took = time.monotonic() - begun
        self.assertEqual((reply.status, reply.reason), (504, "DEADLINE"), reply)
        self.assertIn("1", reply.json["detail"])
        self.assertTrue(0.25 < took < 5, took)
        self.assertEqual(self.rest.post("/v1/stores/late/barriers", {"rank": 2}).status, 422)

    def test_a_caller_that_hangs_up_leaves_the_barrier(self):
        self.store("hung-up", num_workers=2)
        path = "/v1/stores/hung-up/barriers"
        body = b'{"rank": 0, "timeout_ms": 60000}'
        with socket.create_connection(self.server.http.split(":")) as caller:
            caller.sendall(f"POST {path} HTTP/1.1\r\nHost: {self.server.http}\r\n"
                           "Content-Type: application/json\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while not self.rest.get(path).json["barriers"]:
                time.sleep(0.01)
        end = time.monotonic() + 5
        while self.rest.get(path).json["barriers"] and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(self.rest.get(path).json["barriers"], [])
        again = self.rest.post(path, {"rank": 0, "timeout_ms": 100})
        self.assertEqual((again.status, again.reason), (504, "DEADLINE"))

    def test_a_barrier_outlasts_the_idle_timeout_of_a_connection(self):
        self.store("long", num_workers=2)
        reply = self.rest.post("/v1/stores/long/barriers", {"rank": 0, "timeout_ms": 11000})
        self.assertEqual((reply.status, reply.reason), (504, "DEADLINE"), reply)

    def test_a_command_reaches_whoever_watches_or_is_just_taken(self):
        reply = self.rest.post("/v1/stores/default/commands", {"head": 7, "body": "hello"})
        self.assertEqual((reply.status, reply.body), (204, b""))
        self.assertEqual(self.rest.post("/v1/stores/none/commands", {"head": 7}).status, 404)
        self.assertEqual(self.rest.post("/v1/stores/default/commands",
                                        {"head": 3000000000}).status, 422)

    def test_head_1_does_not_bring_back_an_optimizer_that_was_replaced(self):
        self.store("race")
        path = "/v1/stores/race/"
        self.rest.put(path + "optimizer", {"name": "sgd", "learning_rate": 1})
        ended = threading.Event()

        def flag():
            while not ended.is_set():
                self.assertEqual(self.rest.post(path + "commands", {"head": 1}).status, 204)

        threads = [threading.Thread(target=flag) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for rate in range(2, 400):
                put = self.rest.put(path + "optimizer", {"name": "sgd", "learning_rate": rate})
                self.assertEqual(put.status, 200)
                found = self.rest.get(path + "optimizer").json["learning_rate"]
                self.assertEqual(found, rate)
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def test_the_heads_of_mxnet_are_typed_operations(self):
        self.store("heads")
        path = "/v1/stores/heads/"

        def send(head, body="", store="heads"):
            reply = self.rest.post(f"/v1/stores/{store}/commands", {"head": head, "body": body})
            return reply.status, reply.reason if reply.body else ""
        self.assertEqual(send(1), (409, "OPTIMIZER_NOT_SET"))
        self.assertEqual(send(0, '{"name": "sgd", "momentum": 0.5}'), (204, ""))
        self.assertEqual(self.rest.get(path + "optimizer").json["momentum"], 0.5)
        self.assertEqual(send(1), (204, ""))
        self.assertTrue(self.rest.get(path + "optimizer").json["multi_precision"])
        self.assertEqual(self.rest.get(path + "optimizer").json["momentum"], 0.5)
        pickled = "ccopy_reg\n_reconstructor\np0\n(cmxnet.optimizer\nSGD\n"
        self.assertEqual(send(0, pickled), (422, "INVALID_FIELD"))
        self.assertEqual(send(0, ""), (422, "INVALID_FIELD"))
        self.assertEqual(send(0, '{"name": "sgb"}'), (422, "INVALID_FIELD"))
        self.assertEqual(self.rest.get(path + "optimizer").json["momentum"], 0.5)
        self.assertEqual(send(2), (422, "INVALID_FIELD"))
        self.assertEqual(send(3), (204, ""))
        self.assertEqual(send(4, "2bit,x"), (422, "INVALID_FIELD"))
        self.assertEqual(send(4, "2bit,inf"), (422, "INVALID_FIELD"))
        self.assertEqual(send(4, "3bit"), (422, "INVALID_FIELD"))
        self.assertEqual(send(4, "1bit"), (204, ""))
        self.assertEqual(self.rest.get(path + "compression").json["type"], "1bit")
        self.assertEqual(send(4, "2bit,0.25"), (204, ""))
        self.assertEqual(self.rest.get(path + "compression").json["threshold"], 0.25)
        for free in (6, 99, -1):
            self.assertEqual(send(free, "anything"), (204, ""))
        self.rest.post("/v1/stores", {"name": "heads-free", "type": "dist_async"})
        self.assertEqual(send(3, store="heads-free"), (409, "STORE_TYPE_MISMATCH"))

    def test_profiles_are_taken_by_command_into_one_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            with Server("--profile-dir", folder) as server:
                rest = Rest(server.http)

                def send(body):
                    reply = rest.post("/v1/stores/default/commands", {"head": 5, "body": body})
                    return reply.status
                rest.put("/v1/keys/w/value?format=raw&dtype=f32&shape=4", bytes(16))
                for bad in ("", "x", "14", "filename:../x0", "filename:/etc/x0", "filename:.x0",
                            "filename:0", "file:x0", "filename:a/b0"):
                    self.assertEqual(send(bad), 422, bad)
                worker = Worker(server.grpc)
                worker.push("w", [1.0] * 4)
                self.assertEqual(send("filename:push.json,profile_all:10"), 204)
                self.assertEqual(send("11"), 204)
                worker.push("w", [1.0] * 4)
                self.assertEqual(send("12"), 204)
                worker.push("w", [1.0] * 4)
                self.assertEqual(send("02"), 204)
                worker.push("w", [1.0] * 4)
                self.assertEqual(send("01"), 204)
                worker.push("w", [1.0] * 4)
                worker.close()
                self.assertEqual(send("13"), 204)
                self.assertEqual(os.listdir(folder), ["rank0_push.json"])
                with open(os.path.join(folder, "rank0_push.json"), encoding="utf-8") as file:
                    events = json.load(file)["traceEvents"]
                stages = collections.Counter(event["name"] for event in events)
                for stage in ("receive", "decode", "door", "shard", "backend", "ack"):
                    self.assertGreaterEqual(stages[stage], 2, stages)
                self.assertEqual(stages["door"], 2)
                door = next(event for event in events if event["name"] == "door")
                self.assertEqual(door["args"], {"rank": 0, "parts": 1, "bytes": 16})
                shard = [event for event in events if event["name"] == "shard"][0]
                self.assertEqual(shard["args"], {"parts": 1, "bytes": 16})
                for number in range(63):
                    self.assertEqual(send(f"filename:f{number}0"), 204)
                    self.assertEqual(send("13"), 204)
                self.assertEqual(send("filename:more0"), 204)
                self.assertEqual(send("13"), 429)
                self.assertEqual(send("filename:f00"), 204)
                self.assertEqual(send("13"), 204)
        reply = self.rest.post("/v1/stores/default/commands", {"head": 5, "body": "11"})
        self.assertEqual((reply.status, reply.reason), (422, "INVALID_FIELD"))

    def test_both_planes_say_the_same(self):
        self.store("same", num_workers=3)
        channel = support.grpc.insecure_channel(self.server.grpc)
        stub = support.stubs.AdminStub(channel)
        store = stub.GetStore(pb.GetStoreRequest(store="same"), timeout=10)
        rest = self.rest.get("/v1/stores/same").json
        self.assertEqual((store.name, store.num_workers, str(store.lease_ms)),
                         (rest["name"], rest["num_workers"], rest["lease_ms"]))
        channel.close()

    def test_the_compression_is_kept_for_whoever_asks(self):
        self.store("squeezed")
        path = "/v1/stores/squeezed/compression"
        self.assertEqual(self.rest.get(path).json,
                         {"type": "", "threshold": 0, "ratio": 0, "pull": ""})
        reply = self.rest.put(path, {"type": "2bit"})
        self.assertEqual((reply.status, reply.json["type"], reply.json["threshold"]),
                         (200, "2bit", 0.5))
        self.rest.put(path, {"type": "1bit", "threshold": 0})
        self.assertEqual(self.rest.get(path).json,
                         {"type": "1bit", "threshold": 0, "ratio": 0, "pull": ""})
        self.rest.put(path, {"pull": "bf16"})
        self.assertEqual(self.rest.get(path).json,
                         {"type": "", "threshold": 0, "ratio": 0, "pull": "bf16"})
        self.rest.put(path, {"type": "1bit", "threshold": 0, "pull": "none"})
        for body in ({}, [], {"type": "3bit"}, {"type": "2bit", "threshold": 0},
                     {"type": "topk", "ratio": 2}, {"pull": "2bit"}, {"type": "", "pull": ""}):
            reply = self.rest.put(path, body)
            self.assertEqual((reply.status, reply.reason), (422, "INVALID_FIELD"), reply)
        self.assertEqual(self.rest.get(path).json["type"], "1bit")
        self.assertEqual(self.rest.get("/v1/stores/none/compression").status, 404)

    def test_what_is_not_built_says_so(self):
        for method, path in [("GET", "checkpoints"), ("POST", "checkpoints")]:
            reply = self.rest.ask(method, f"/v1/stores/default/{path}")
            self.assertEqual((reply.status, reply.reason), (501, "UNIMPLEMENTED"), path)


if __name__ == "__main__":
    support.main()
