"""Health, reflection, and Admin: what generic tools ask a gRPC server."""

import pathlib
import subprocess
import sys
import tempfile
import time

import support
from support import Case, Server, Worker, grpc, pb

CODE = grpc.StatusCode


def generate():
    """Stubs of health and reflection (v1alpha; v1 has the same messages under another name)."""
    folder = tempfile.TemporaryDirectory(prefix="kvs-stubs-")
    subprocess.run(
        ["protoc", f"-I{support.SOURCE / 'api'}", f"--python_out={folder.name}",
         "grpc/health/v1/health.proto", "grpc/reflection/v1alpha/reflection.proto"], check=True)
    # The package is called grpc, as the library is: take the modules out of it.
    for file in pathlib.Path(folder.name).rglob("*_pb2.py"):
        file.rename(pathlib.Path(folder.name) / file.name)
    sys.path.insert(0, folder.name)
    return folder


_stubs = generate()
import health_pb2  # noqa: E402
import reflection_pb2  # noqa: E402
from google.protobuf import descriptor_pb2, descriptor_pool  # noqa: E402

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def health(channel, method="unary_unary", path="Check"):
    return getattr(channel, method)(
        f"/grpc.health.v1.Health/{path}",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString)


def reflect(channel, version, **question):
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
    replies = list(call(iter([reflection_pb2.ServerReflectionRequest(host="h", **question)]),
                        timeout=10))
    assert len(replies) == 1, replies
    return replies[0]


class Services(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.channel = grpc.insecure_channel(cls.server.grpc)
        cls.admin = support.stubs.AdminStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        cls.server.__exit__(None, None, None)

    # ------------------------------------------------------------------ health

    def test_the_server_and_its_services_are_serving(self):
        for name in ("", "kvstored.v1.KVStore", "kvstored.v1.Admin"):
            reply = health(self.channel)(health_pb2.HealthCheckRequest(service=name), timeout=10)
            self.assertEqual(reply.status, SERVING)

    def test_an_unknown_service_is_not_found(self):
        self.refused(CODE.NOT_FOUND, "ROUTE_NOT_FOUND", health(self.channel),
                     health_pb2.HealthCheckRequest(service="nobody"))

    def test_a_watch_of_an_unknown_service_says_so_and_stays_open(self):
        watch = health(self.channel, "unary_stream", "Watch")
        events = watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=1)
        self.assertEqual(next(events).status, SERVICE_UNKNOWN)
        with self.assertRaises(grpc.RpcError) as caught:
            next(events)
        self.assertEqual(caught.exception.code(), CODE.DEADLINE_EXCEEDED)

    def test_a_watch_is_told_when_the_server_drains(self):
        with Server("--drain-delay", "500ms") as server:
            channel = grpc.insecure_channel(server.grpc)
            events = health(channel, "unary_stream", "Watch")(health_pb2.HealthCheckRequest(),
                                                              timeout=20)
            self.assertEqual(next(events).status, SERVING)
            server.process.terminate()
            self.assertEqual(next(events).status, NOT_SERVING)
            self.refused(CODE.UNAVAILABLE, "STOPPING",
                         lambda: support.stubs.KVStoreStub(channel).Register(
                             pb.RegisterRequest(), timeout=10))
            self.assertEqual(server.process.wait(10), 0)
            channel.close()

    # ------------------------------------------------------------------ reflection

    def test_both_versions_list_the_services(self):
        for version in ("v1", "v1alpha"):
            reply = reflect(self.channel, version, list_services="*")
            names = {service.name for service in reply.list_services_response.service}
            self.assertEqual(names, {
                "kvstored.v1.KVStore", "kvstored.v1.Admin", "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"})
            self.assertEqual(reply.valid_host, "h")
            self.assertEqual(reply.original_request.list_services, "*")

    def test_a_client_can_be_built_from_what_reflection_serves(self):
        pool = descriptor_pool.DescriptorPool()
        reply = reflect(self.channel, "v1", file_containing_symbol="kvstored.v1.KVStore.Push")
        for bytes_ in reply.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(bytes_))
        service = pool.FindServiceByName("kvstored.v1.KVStore")
        self.assertIn("Push", service.methods_by_name)
        self.assertEqual(service.methods_by_name["Push"].input_type.full_name, "kvstored.v1.Frame")
        self.assertEqual(pool.FindMessageTypeByName("kvstored.v1.PartHeader")
                         .fields_by_name["element_offset"].number, 6)

    def test_messages_enums_and_files_are_found_by_name(self):
        for question in (dict(file_containing_symbol="kvstored.v1.Frame"),
                         dict(file_containing_symbol="kvstored.v1.DType"),
                         dict(file_by_filename="kvstored.proto")):
            reply = reflect(self.channel, "v1alpha", **question)
            file = descriptor_pb2.FileDescriptorProto.FromString(
                reply.file_descriptor_response.file_descriptor_proto[0])
            self.assertEqual(file.name, "kvstored.proto")

    def test_what_is_not_there_is_answered_with_not_found(self):
        for question in (dict(file_containing_symbol="kvstored.v1.Nobody"),
                         dict(file_containing_symbol=""), dict(file_by_filename="x.proto"),
                         dict(file_containing_symbol="kvstored.v1"),
                         dict(all_extension_numbers_of_type="kvstored.v1.Frame")):
            reply = reflect(self.channel, "v1", **question)
            self.assertEqual(reply.error_response.error_code, CODE.NOT_FOUND.value[0])

    def test_one_stream_answers_many_questions_in_order(self):
        call = self.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
        questions = [reflection_pb2.ServerReflectionRequest(file_by_filename=f"{i}")
                     for i in range(100)]
        replies = list(call(iter(questions), timeout=10))
        self.assertEqual([reply.original_request for reply in replies], questions)

    # ------------------------------------------------------------------ Admin

    def test_stores_are_created_listed_and_deleted(self):
        made = self.admin.CreateStore(pb.CreateStoreRequest(
            name="second", type="dist_async", num_workers=3, policy=pb.POLICY_SHRINK), timeout=10)
        self.assertEqual((made.name, made.type, made.num_workers, made.policy),
                         ("second", "dist_async", 3, pb.POLICY_SHRINK))
        names = [store.name for store in
                 self.admin.ListStores(pb.ListStoresRequest(), timeout=10).stores]
        self.assertEqual(names, ["default", "second"])
        self.assertEqual(self.admin.GetType(pb.GetTypeRequest(store="second"), timeout=10).type,
                         "dist_async")
        self.refused(CODE.ALREADY_EXISTS, "STORE_EXISTS", self.admin.CreateStore,
                     pb.CreateStoreRequest(name="second", type="dist_sync", num_workers=1))
        self.admin.DeleteStore(pb.DeleteStoreRequest(store="second"), timeout=10)
        self.refused(CODE.NOT_FOUND, "STORE_NOT_FOUND", self.admin.GetStore,
                     pb.GetStoreRequest(store="second"))

    def test_a_local_store_is_refused(self):
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD", self.admin.CreateStore,
                     pb.CreateStoreRequest(name="mine", type="local", num_workers=1))

    def test_the_optimizer_is_set_and_read_as_data(self):
        text = '{"name": "sgd", "learning_rate": 0.25, "momentum": 0.5}'
        self.admin.SetOptimizer(pb.SetOptimizerRequest(optimizer=pb.Optimizer(json=text)),
                                timeout=10)
        self.assertIn('"momentum"', self.admin.GetOptimizer(pb.GetOptimizerRequest(),
                                                            timeout=10).json)
        error = self.refused(
            CODE.INVALID_ARGUMENT, "INVALID_FIELD", self.admin.SetOptimizer,
            pb.SetOptimizerRequest(optimizer=pb.Optimizer(json='{"name": "sgd", "momentun": 1}')))
        self.assertIn("momentum", error.details())

    def test_a_value_is_put_and_read_in_chunks(self):
        count = 700_000
        data = bytes(i % 251 for i in range(4 * count))

        def chunks():
            first = pb.PutValueChunk(key="put", format="raw", dtype=pb.DTYPE_F32, shape=[count])
            yield first
            for at in range(0, len(data), 1 << 20):
                yield pb.PutValueChunk(data=data[at:at + (1 << 20)])

        key = self.admin.PutValue(chunks(), timeout=20)
        self.assertEqual((key.key, list(key.shape), key.bytes), ("put", [count], len(data)))
        read = list(self.admin.GetValue(pb.GetValueRequest(key="put"), timeout=20))
        self.assertEqual(read[0].total_bytes, len(data))
        self.assertEqual(b"".join(chunk.data for chunk in read) == data, True)
        npy = b"".join(chunk.data for chunk in self.admin.GetValue(
            pb.GetValueRequest(key="put", format="npy"), timeout=20))
        self.assertEqual(npy[:6], b"\x93NUMPY")
        self.refused(CODE.NOT_FOUND, "KEY_NOT_FOUND",
                     lambda: list(self.admin.GetValue(pb.GetValueRequest(key="no"), timeout=10)))
        self.refused(CODE.INVALID_ARGUMENT, "INVALID_FRAME",
                     lambda: self.admin.PutValue(iter([]), timeout=10))

    def test_a_compression_that_is_left_out_is_not_a_threshold_of_0(self):
        for given, threshold in ((pb.Compression(type="2bit"), 0.5),
                                 (pb.Compression(type="1bit", threshold=0), 0.0)):
            reply = self.admin.SetCompression(pb.SetCompressionRequest(compression=given),
                                              timeout=10)
            self.assertEqual((reply.type, reply.threshold), (given.type, threshold))
        got = self.admin.GetCompression(pb.GetCompressionRequest(), timeout=10)
        self.assertEqual((got.type, got.threshold), ("1bit", 0.0))

    def test_what_is_not_built_yet_says_so(self):
        calls = (lambda: self.admin.CreateCheckpoint(pb.CreateCheckpointRequest(), timeout=10),
                 lambda: self.admin.ListCheckpoints(pb.ListCheckpointsRequest(), timeout=10))
        for call in calls:
            self.refused(CODE.UNIMPLEMENTED, "UNIMPLEMENTED", call)

    def test_every_unary_method_of_admin_answers(self):
        """With an answer or one of our own refusals; never with a status of the core alone."""
        for name, method in pb.DESCRIPTOR.services_by_name["Admin"].methods_by_name.items():
            request = getattr(pb, method.input_type.name)()
            if name in ("PutValue", "LoadOptimizerStates", "GetValue", "SaveOptimizerStates"):
                continue
            if name == "EnterBarrier":
                request.timeout_ms = 100
            elif name == "DeleteStore":
                request.store = "nobody"
            try:
                getattr(self.admin, name)(request, timeout=10)
            except grpc.RpcError as error:
                self.assertNotEqual(support.reason_of(error), "", name)

    def test_the_details_of_a_status_name_reason_and_domain(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.admin.GetKey(pb.GetKeyRequest(key="no"), timeout=10)
        details = dict(caught.exception.trailing_metadata())["grpc-status-details-bin"]
        self.assertIn(b"type.googleapis.com/google.rpc.ErrorInfo", details)
        self.assertIn(b"KEY_NOT_FOUND", details)
        self.assertIn(b"kvstored", details)

    def test_waiting_barriers_leave_room_for_other_admin_calls(self):
        self.admin.CreateStore(pb.CreateStoreRequest(name="crowd", type="dist_sync",
                                                     num_workers=4096), timeout=10)
        waiting = [self.admin.EnterBarrier.future(
            pb.EnterBarrierRequest(store="crowd", rank=rank, timeout_ms=5000), timeout=20)
            for rank in range(40)]
        time.sleep(0.3)
        began = time.monotonic()
        self.admin.GetStore(pb.GetStoreRequest(store="crowd"), timeout=10)
        self.assertLess(time.monotonic() - began, 4)
        codes = {future.exception().code() for future in waiting}
        self.assertEqual(codes, {CODE.RESOURCE_EXHAUSTED, CODE.DEADLINE_EXCEEDED})


if __name__ == "__main__":
    support.main()
