"""A server of one's own, and a worker that speaks to it through generated stubs.

Scripts end by support.main(), which exits 77 where the stubs cannot be made.
"""

import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

from server import BINARY, SERVER, SOURCE, Server, skip  # noqa: F401 (for the tests)

try:
    import google.protobuf  # noqa: F401
    import grpc
except ImportError as missing:
    skip(f"{missing.name} is not installed (python3-grpcio, python3-protobuf)")


def _generate():
    """Makes the stubs in a folder that is removed at the end."""
    plugin = shutil.which("grpc_python_plugin")
    if plugin is None or shutil.which("protoc") is None:
        skip("protoc or grpc_python_plugin is not installed")
    folder = tempfile.TemporaryDirectory(prefix="kvs-stubs-")
    subprocess.run(
        ["protoc", f"-I{SOURCE / 'api'}", f"--python_out={folder.name}",
         f"--grpc_python_out={folder.name}", f"--plugin=protoc-gen-grpc_python={plugin}",
         "kvstored.proto"],
        check=True)
    sys.path.insert(0, folder.name)
    return folder


_stubs = _generate()
import kvstored_pb2 as pb  # noqa: E402
import kvstored_pb2_grpc as stubs  # noqa: E402


DTYPES = {"f": pb.DTYPE_F32, "d": pb.DTYPE_F64, "i": pb.DTYPE_I32, "q": pb.DTYPE_I64,
          "B": pb.DTYPE_U8, "b": pb.DTYPE_I8, "e": pb.DTYPE_F16}


def pack(values, code="f"):
    return struct.pack(f"<{len(values)}{code}", *values)


def unpack(data, code="f"):
    return list(struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data))


class Refused(Exception):
    """A refusal inside a stream."""

    def __init__(self, refusal):
        super().__init__(f"{refusal.problem.reason}: {refusal.problem.detail}")
        self.reason = refusal.problem.reason
        self.sequence = refusal.sequence


class Worker:
    """A session: numbers its parts and requests, and names what each key's came after."""

    def __init__(self, address, store="", name="worker", rank=None, timeout=10, type_=""):
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.max_receive_message_length", 1 << 23),
                              ("grpc.max_send_message_length", 1 << 26),
                              ("grpc.use_local_subchannel_pool", 1)])
        self.kv = stubs.KVStoreStub(self.channel)
        self.admin = stubs.AdminStub(self.channel)
        self.store = store
        self.timeout = timeout
        request = pb.RegisterRequest(store=store, name=name, type=type_)
        if rank is not None:
            request.rank = rank
        self.reply = self.kv.Register(request, timeout=timeout)
        self.session = self.reply.session
        self.epoch = self.reply.epoch
        self.rank = self.reply.rank
        self.sequence = 0
        self.last = {}

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def number(self, key):
        self.sequence += 1
        after = self.last.get(key, 0)
        self.last[key] = self.sequence
        return self.sequence, after

    def headers(self, key, shape, values, code="f", sequenced=True):
        """The parts of a whole value: headers and their bytes."""
        part = self.reply.limits.part_elements
        size = struct.calcsize(code)
        data = values if isinstance(values, bytes) else pack(values, code)
        total = len(data) // size
        headers = []
        after = self.last.get(key, 0)
        for offset in range(0, max(total, 1), part):
            count = min(part, total - offset)
            header = pb.PartHeader(key=key, dtype=DTYPES[code], element_offset=offset,
                                   element_count=count, payload_bytes=count * size)
            if sequenced:
                self.sequence += 1
                header.sequence, header.after = self.sequence, after
                self.last[key] = self.sequence
            if shape is not None:
                header.shape.extend(shape)
            headers.append(header)
        return headers, data

    def frame(self, headers, data, **fields):
        named = dict(store=self.store, session=self.session, epoch=self.epoch)
        named.update(fields)
        return pb.Frame(parts=headers, data=data, **named)

    def frames(self, headers, data):
        """One part a frame."""
        at = 0
        for header in headers:
            yield self.frame([header], data[at:at + header.payload_bytes])
            at += header.payload_bytes

    def init(self, key, shape, values, code="f"):
        headers, data = self.headers(key, shape, values, code, sequenced=False)
        return self.kv.Init(self.frames(headers, data), timeout=self.timeout)

    def push(self, key, values, code="f"):
        """Waits for the acks; returns them."""
        headers, data = self.headers(key, None, values, code)
        replies = list(self.kv.Push(self.frames(headers, data), timeout=self.timeout))
        raise_refusals(replies)
        return replies

    def pull_request(self, *keys, **fields):
        request = pb.PullRequest(store=self.store, session=self.session, epoch=self.epoch,
                                 **fields)
        for key in keys:
            sequence, after = self.number(key)
            request.keys.add(key=key, sequence=sequence, after=after)
        return request

    def pull(self, *keys, code="f", **fields):
        """The values of keys by name (of all keys named, or by prefix or all)."""
        request = self.pull_request(*keys, **fields)
        replies = list(self.kv.Pull(iter([request]), timeout=self.timeout))
        raise_refusals(replies)
        values = assemble(replies)
        return {key: unpack(data, code) for key, data in values.items()}

    def pushpull(self, key, values, code="f"):
        headers, data = self.headers(key, None, values, code)
        replies = list(self.kv.PushPull(self.frames(headers, data), timeout=self.timeout))
        raise_refusals(replies)
        return unpack(assemble(replies)[key], code)


def raise_refusals(replies):
    for reply in replies:
        if reply.WhichOneof("reply") == "refusal":
            raise Refused(reply.refusal)


def assemble(replies):
    """The bytes of each key, from frames in any order."""
    parts = {}
    for reply in replies:
        at = 0
        for header in reply.frame.parts:
            data = reply.frame.data[at:at + header.payload_bytes]
            at += header.payload_bytes
            parts.setdefault(header.key, {})[header.element_offset] = data
    return {key: b"".join(data for _, data in sorted(found.items()))
            for key, found in parts.items()}


def reason_of(error):
    """The reason in the trailers of a failed call."""
    return dict(error.trailing_metadata() or ()).get("kv-reason", "")


class Case(unittest.TestCase):
    """A test case that knows refusals."""

    def refused(self, code, reason, function, *arguments):
        """Calls `function`, and wants that status of gRPC and that reason."""
        with self.assertRaises(grpc.RpcError) as caught:
            function(*arguments)
        error = caught.exception
        self.assertEqual((error.code(), reason_of(error)), (code, reason), error.details())
        return error


def main():
    unittest.main(verbosity=2, warnings="ignore" if not sys.warnoptions else None)
