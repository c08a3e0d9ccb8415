"""Bad input, each with its status; after each the server still serves."""

import random
import struct

import support
from support import Case, Server, Worker, grpc, pb

CODE = grpc.StatusCode
SHAPE = [2, 3]
VALUES = [1.0] * 6
PART = 1 << 18


class BadInput(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-memory", "1GiB")
        cls.worker = Worker(cls.server.grpc)
        cls.worker.init("k", SHAPE, VALUES)
        cls.worker.init("long", [PART + 5], bytes(4 * (PART + 5)))

    @classmethod
    def tearDownClass(cls):
        cls.worker.close()
        cls.server.__exit__(None, None, None)

    def setUp(self):
        self.reply = None

    def tearDown(self):
        """Whatever happened: push and pull still work."""
        worker = self.worker
        worker.push("k", VALUES)
        self.assertEqual(worker.pull("k"), {"k": VALUES})

    def header(self, **fields):
        named = dict(key="k", dtype=pb.DTYPE_F32, shape=SHAPE, element_count=6, payload_bytes=24)
        named.update(fields)
        return pb.PartHeader(**named)

    def push(self, *headers, data=b"", **fields):
        """Pushes one frame; the reasons of its refusals."""
        frame = self.worker.frame(headers, data, **fields)
        replies = list(self.worker.kv.Push(iter([frame]), timeout=10))
        return [(r.refusal.problem.reason, r.refusal.problem.code) for r in replies
                if r.WhichOneof("reply") == "refusal"]

    def refused_part(self, reason, code, data=b"\0" * 24, **fields):
        self.worker.sequence += 1
        header = self.header(sequence=self.worker.sequence, **fields)
        self.assertEqual(self.push(header, data=data), [(reason, code.value[0])])

    def init(self, *headers, data=b"", **fields):
        return self.worker.kv.Init(iter([self.worker.frame(headers, data, **fields)]), timeout=10)

    # ------------------------------------------------------------------ parts of a push

    def test_an_unknown_key_is_refused(self):
        self.refused_part("KEY_NOT_FOUND", CODE.NOT_FOUND, key="nobody")

    def test_a_wrong_dtype_is_refused(self):
        self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, dtype=pb.DTYPE_I32)

    def test_a_dtype_without_a_meaning_is_refused(self):
        self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, dtype=77)

    def test_another_shape_is_refused(self):
        self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, shape=[3, 2])

    def test_too_few_bytes_for_the_elements_are_refused(self):
        self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, payload_bytes=20,
                          data=b"\0" * 20)

    def test_an_offset_past_the_end_is_refused(self):
        self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, element_offset=PART)

    def test_an_offset_that_overflows_is_refused(self):
        self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, element_offset=2**64 - 1)

    def test_a_payload_that_crosses_a_part_is_refused(self):
        self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, key="long", shape=[PART + 5],
                          element_count=PART + 5, payload_bytes=4 * (PART + 5),
                          data=bytes(4 * (PART + 5)))

    def test_an_offset_inside_a_part_is_refused(self):
        self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, key="long", shape=[PART + 5],
                          element_offset=6)

    def test_thirty_three_dimensions_are_refused(self):
        self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, shape=[1] * 33)

    def test_a_sequence_beyond_the_window_is_refused(self):
        header = self.header(sequence=self.worker.sequence + 10_000_000)
        self.assertEqual(self.push(header, data=b"\0" * 24), [("SEQ_GAP", 11)])

    def test_a_weight_is_not_built_yet(self):
        self.refused_part("UNIMPLEMENTED", CODE.UNIMPLEMENTED, weight=2.0)

    def test_encodings_of_the_wrong_length_or_with_wrong_indices_are_refused(self):
        entry = lambda index: struct.pack("<If", index, 1.0)
        for codec, data in ((pb.CODEC_2BIT, b"\0" * 24), (pb.CODEC_1BIT, b""),
                            (pb.CODEC_F16, b"\0" * 11), (pb.CODEC_BF16, b"\0" * 13),
                            (pb.CODEC_INT8, b"\0" * 6), (99, b"\0" * 24),
                            (pb.CODEC_ENTRIES, entry(0)[:7]), (pb.CODEC_ENTRIES, entry(6)),
                            (pb.CODEC_ENTRIES, entry(1) + entry(1)),
                            (pb.CODEC_ENTRIES, entry(2) + entry(1)),
                            (pb.CODEC_ENTRIES, entry(2**32 - 1)),
                            (pb.CODEC_ENTRIES, b"".join(map(entry, range(7))))):
            with self.subTest(codec=codec, data=data):
                self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, codec=codec, data=data,
                                  payload_bytes=len(data), threshold=0.5)

    def test_a_threshold_that_is_none_is_refused(self):
        for threshold in (0.0, -1.0, float("nan"), float("inf")):
            self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, codec=pb.CODEC_2BIT,
                              data=b"\0" * 4, payload_bytes=4, threshold=threshold)

    def test_rows_of_a_dense_key_are_refused(self):
        self.refused_part("INVALID_TENSOR", CODE.INVALID_ARGUMENT, storage=pb.STORAGE_ROW_SPARSE,
                          row_ids=[0, 1])

    def test_a_refused_part_does_not_touch_the_others_of_its_frame(self):
        worker = self.worker
        headers, data = [], b""
        for key in ("nobody", "k"):
            worker.sequence += 1
            headers.append(self.header(key=key, sequence=worker.sequence))
            data += support.pack([9.0] * 6)
        replies = list(worker.kv.Push(iter([worker.frame(headers, data)]), timeout=10))
        acked = [r.first for reply in replies for r in reply.acks.ranges]
        self.assertEqual(acked, [worker.sequence])
        worker.last["k"] = worker.sequence
        self.assertEqual(worker.pull("k"), {"k": [9.0] * 6})

    # ------------------------------------------------------------------ whole frames

    def test_payloads_that_do_not_add_up_to_the_data_end_the_stream(self):
        for data in (b"", b"\0" * 23, b"\0" * 25):
            header = self.header(sequence=1)
            self.refused(CODE.INVALID_ARGUMENT, "INVALID_FRAME",
                         lambda: self.push(header, data=data))

    def test_a_header_of_a_terabyte_ends_the_stream(self):
        header = self.header(sequence=1, element_count=1 << 38, payload_bytes=1 << 40)
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_FRAME",
                     lambda: self.push(header, data=b"\0" * 24))

    def test_payload_bytes_that_overflow_end_the_stream(self):
        headers = [self.header(sequence=i, payload_bytes=1 << 63) for i in (1, 2)]
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_FRAME", lambda: self.push(*headers))

    def test_an_unknown_session_ends_the_stream(self):
        self.refused(CODE.FAILED_PRECONDITION, "NOT_REGISTERED",
                     lambda: self.push(self.header(sequence=1), data=b"\0" * 24,
                                       session=b"x" * 16))

    def test_a_session_of_the_wrong_length_ends_the_stream(self):
        for session in (b"", b"x", b"x" * 4000):
            self.refused(CODE.FAILED_PRECONDITION, "NOT_REGISTERED",
                         lambda: self.push(self.header(sequence=1), data=b"\0" * 24,
                                           session=session))

    def test_a_stale_epoch_ends_the_stream(self):
        self.refused(CODE.FAILED_PRECONDITION, "FENCED",
                     lambda: self.push(self.header(sequence=1), data=b"\0" * 24,
                                       epoch=self.worker.epoch - 1))

    def test_an_unknown_store_ends_the_stream(self):
        self.refused(CODE.NOT_FOUND, "STORE_NOT_FOUND",
                     lambda: self.push(self.header(sequence=1), data=b"\0" * 24, store="nobody"))

    def test_durable_acks_are_not_built_yet(self):
        self.refused(CODE.UNIMPLEMENTED, "UNIMPLEMENTED",
                     lambda: self.push(self.header(sequence=1), data=b"\0" * 24, durable=True))

    def test_another_session_on_a_bound_stream_ends_it(self):
        worker = self.worker
        frames = [worker.frame([], b""), worker.frame([], b"", session=b"y" * 16)]
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD",
                     lambda: list(worker.kv.Push(iter(frames), timeout=10)))

    def test_a_message_over_the_limit_is_refused_by_the_core(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.push(self.header(sequence=1), data=bytes(5 << 20))
        self.assertEqual(caught.exception.code(), CODE.RESOURCE_EXHAUSTED)

    def raw(self, method, messages):
        call = self.worker.channel.stream_stream(f"/kvstored.v1.KVStore/{method}")
        return list(call(iter(messages), timeout=10))

    def test_truncated_messages_end_the_stream(self):
        whole = self.worker.frame([self.header(sequence=1)], b"\0" * 24).SerializeToString()
        for cut in (1, 3, len(whole) // 2, len(whole) - 1):
            self.refused(CODE.INVALID_ARGUMENT, "INVALID_FRAME", self.raw, "Push", [whole[:cut]])

    def test_random_bytes_are_refused_whatever_they_are(self):
        source = random.Random(7)
        for method in ("Push", "Pull", "PushPull", "Session"):
            for size in (1, 7, 100, 5000, 200000):
                noise = source.randbytes(size)
                with self.assertRaises(grpc.RpcError) as caught:
                    self.raw(method, [noise])
                self.assertIn(caught.exception.code(),
                              (CODE.INVALID_ARGUMENT, CODE.FAILED_PRECONDITION, CODE.NOT_FOUND,
                               CODE.UNIMPLEMENTED, CODE.RESOURCE_EXHAUSTED))

    def test_random_bytes_to_unary_methods_are_refused(self):
        source = random.Random(11)
        for service, method in (("KVStore", "Register"), ("KVStore", "Barrier"),
                                ("Admin", "CreateStore"), ("Admin", "SetOptimizer")):
            call = self.worker.channel.unary_unary(f"/kvstored.v1.{service}/{method}")
            for size in (3, 1000):
                with self.assertRaises(grpc.RpcError):
                    call(b"\xff" + source.randbytes(size), timeout=10)

    def test_a_compressed_message_is_not_accepted(self):
        header = self.header(sequence=1, payload_bytes=100000)  # long enough to be compressed
        frame = self.worker.frame([header], bytes(100000))
        self.refused(CODE.UNIMPLEMENTED, "UNIMPLEMENTED",
                     lambda: list(self.worker.kv.Push(iter([frame]), timeout=10,
                                                      compression=grpc.Compression.Gzip)))

    def test_an_unknown_method_is_unimplemented(self):
        call = self.worker.channel.unary_unary("/kvstored.v1.KVStore/Nothing")
        self.refused(CODE.UNIMPLEMENTED, "UNIMPLEMENTED", lambda: call(b"", timeout=10))

    # ------------------------------------------------------------------ Init

    def test_a_second_init_with_another_shape_is_an_error(self):
        self.refused(CODE.ALREADY_EXISTS, "KEY_EXISTS",
                     lambda: self.init(self.header(shape=[6]), data=b"\0" * 24))

    def test_an_equal_second_init_says_existed_and_keeps_the_value(self):
        reply = self.init(self.header(), data=support.pack([4.0] * 6))
        self.assertEqual([(row.key, row.existed) for row in reply.keys], [("k", True)])

    def test_missing_parts_leave_no_key(self):
        header = self.header(key="half", shape=[PART + 5], element_count=PART,
                             payload_bytes=4 * PART)
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_TENSOR",
                     lambda: self.init(header, data=bytes(4 * PART)))
        self.refused(CODE.NOT_FOUND, "KEY_NOT_FOUND",
                     lambda: self.worker.admin.GetKey(pb.GetKeyRequest(key="half"), timeout=10))

    def test_overlapping_parts_leave_no_key(self):
        header = self.header(key="twice")
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_TENSOR",
                     lambda: self.init(header, header, data=b"\0" * 48))
        self.refused(CODE.NOT_FOUND, "KEY_NOT_FOUND",
                     lambda: self.worker.admin.GetKey(pb.GetKeyRequest(key="twice"), timeout=10))

    def test_an_init_of_thirty_three_dimensions_is_an_error(self):
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_TENSOR",
                     lambda: self.init(self.header(key="dims", shape=[1] * 33, element_count=1,
                                                   payload_bytes=4), data=b"\0" * 4))

    def test_an_init_of_a_terabyte_takes_no_memory(self):
        header = self.header(key="huge", shape=[1 << 38], element_count=PART,
                             payload_bytes=4 * PART)
        with self.assertRaises(grpc.RpcError) as caught:
            self.init(header, data=bytes(4 * PART))
        self.assertIn(caught.exception.code(), (CODE.RESOURCE_EXHAUSTED, CODE.INVALID_ARGUMENT))

    def test_bad_keys_are_an_error(self):
        for key in ("", "a\nb", "x" * 257):
            with self.assertRaises(grpc.RpcError) as caught:
                self.init(self.header(key=key), data=b"\0" * 24)
            self.assertEqual(caught.exception.code(), CODE.INVALID_ARGUMENT, key)

    def test_an_init_without_a_session_is_an_error(self):
        self.refused(CODE.FAILED_PRECONDITION, "NOT_REGISTERED",
                     lambda: self.init(self.header(), data=b"\0" * 24, session=b""))

    def test_an_init_without_frames_is_an_error(self):
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_FRAME",
                     lambda: self.worker.kv.Init(iter([]), timeout=10))

    # ------------------------------------------------------------------ Pull

    def pull_refused(self, code, reason, **fields):
        request = pb.PullRequest(session=self.worker.session, epoch=self.worker.epoch, **fields)
        self.refused(code, reason, lambda: list(self.worker.kv.Pull(iter([request]), timeout=10)))

    def test_what_a_pull_cannot_do_yet_is_unimplemented(self):
        version = pb.Version(epoch=1, count=1)
        for fields in (dict(keys=[pb.PullKey(key="k", since=version)]),
                       dict(keys=[pb.PullKey(key="k")], snapshot_name="s")):
            self.pull_refused(CODE.UNIMPLEMENTED, "UNIMPLEMENTED", **fields)

    def test_keys_and_prefix_together_are_an_error(self):
        self.pull_refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD", keys=[pb.PullKey(key="k")],
                          prefix="k")

    def test_a_prefix_that_is_too_long_is_an_error(self):
        self.pull_refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD", prefix="x" * 300)

    def test_a_peer_that_goes_away_in_the_middle_of_an_init_leaves_no_key(self):
        worker = self.worker

        def frames():
            yield worker.frame([self.header(key="gone")], b"\0" * 24)
            raise RuntimeError("gone")

        with self.assertRaises(grpc.RpcError):
            worker.kv.Init(frames(), timeout=10)
        self.refused(CODE.NOT_FOUND, "KEY_NOT_FOUND",
                     lambda: worker.admin.GetKey(pb.GetKeyRequest(key="gone"), timeout=10))


if __name__ == "__main__":
    support.main()
