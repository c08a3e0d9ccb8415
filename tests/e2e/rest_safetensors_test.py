"""Values as safetensors files, by REST and by gRPC, against a reader and a writer written here."""

import json
import struct
import urllib.parse

import support
from rest_client import Rest
from support import Case, Server, grpc, pb, stubs

TYPE = "application/vnd.safetensors"
# Its name in the format, its name here, bytes of an element.
DTYPES = [("F32", "f32", 4), ("F64", "f64", 8), ("F16", "f16", 2), ("BF16", "bf16", 2),
          ("U8", "u8", 1), ("I8", "i8", 1), ("I32", "i32", 4), ("I64", "i64", 8)]


def parse(file):
    """The tensors, {name: (dtype, shape, bytes)}, and the notes of a file; it must have no gaps."""
    length, = struct.unpack("<Q", file[:8])
    assert length % 8 == 0
    header = json.loads(file[8:8 + length])
    data = file[8 + length:]
    notes = header.pop("__metadata__", {})
    tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        assert first == end
        end = last
        tensors[name] = (entry["dtype"], entry["shape"], data[first:last])
    assert end == len(data)
    return tensors, notes


def write(tensors, notes=None):
    """The opposite, with spaces and fields in an order of its own."""
    header = {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"data_offsets": [len(data), len(data) + len(content)], "shape": shape,
                        "dtype": dtype}
        data += content
    if notes:
        header["__metadata__"] = notes
    text = json.dumps(header, indent=1).encode()
    return struct.pack("<Q", len(text)) + text + data


def content_of(count, size):
    """Bytes that no dtype reads as something special."""
    return bytes((7 * i + i // 256) % 101 + 1 for i in range(count * size))


class Safetensors(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-memory", "64MiB")
        cls.rest = Rest(cls.server.http)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def path(self, key, query=""):
        return f"/v1/keys/{urllib.parse.quote(key, safe='')}/value{query}"

    def put(self, key, file, **headers):
        return self.rest.put(self.path(key), file, Content_Type=TYPE, **headers)

    def test_every_dtype_and_shape_comes_back(self):
        for name, ours, size in DTYPES:
            for shape in [[], [0], [3], [2, 0, 5], [5, 1, 7], [600, 700]]:
                count = 1
                for n in shape:
                    count *= n
                if count > 1000 and ours not in ("f32", "bf16"):
                    continue  # of several parts: once a size is enough
                with self.subTest(dtype=name, shape=shape):
                    key = f"{ours} {shape} ü/\"quoted\""
                    content = content_of(count, size)
                    made = self.put(key, write({key: (name, shape, content)}))
                    self.assertEqual(made.status, 201, made)
                    self.assertEqual((made.json["dtype"], [int(n) for n in made.json["shape"]]),
                                     (ours, shape))
                    got = self.rest.get(self.path(key, "?format=safetensors"))
                    self.assertEqual((got.status, got.type), (200, TYPE))
                    self.assertEqual(got.headers["ETag"], made.headers["ETag"])
                    tensors, notes = parse(got.body)
                    self.assertEqual(tensors, {key: (name, shape, content)})
                    self.assertEqual(notes, {"format": "pt", "kvstored.format": "1",
                                             "kvstored.kind": "weights"})
                    self.assertEqual(self.put(key, got.body).status, 200)
                    raw = self.rest.get(self.path(key, "?format=raw"))
                    self.assertEqual(raw.body, content)

    def test_it_is_chosen_by_the_header_and_cut_by_a_range(self):
        content = content_of(6, 4)
        self.put("range", write({"range": ("F32", [2, 3], content)}))
        whole = self.rest.get(self.path("range"), Accept=TYPE)
        self.assertEqual((whole.status, whole.type), (200, TYPE))
        part = self.rest.get(self.path("range"), Accept=TYPE, Range="bytes=-24")
        self.assertEqual((part.status, part.body), (206, content))
        self.assertEqual(int(whole.headers["Content-Length"]), len(whole.body))
        again = self.rest.get(self.path("range", "?format=safetensors"))
        self.assertEqual(again.body, whole.body)

    def test_what_is_no_such_file_is_refused_and_changes_nothing(self):
        content = content_of(2, 4)
        good = write({"w": ("F32", [2], content)})
        made = self.put("w", good)
        other = {"x": ("F32", [2], content)}
        lying = good.replace(b"[\n   2\n  ]", b"[\n   3\n  ]")
        self.assertNotEqual(lying, good)
        cases = [
            (write({}), 400, "INVALID_TENSOR"),
            (write(other), 400, "INVALID_TENSOR"),
            (write({"w": ("F32", [2], content), **other}), 400, "INVALID_TENSOR"),
            (write({"w": ("F8_E5M2", [8], content)}), 400, "INVALID_FRAME"),
            (write({"w": ("F64", [1], content)}), 409, "KEY_EXISTS"),
            (write({"w": ("F32", [1, 2], content)}), 409, "KEY_EXISTS"),
            (lying, 400, "INVALID_FRAME"),
            (good[:-1], 400, "INVALID_TENSOR"),
            (good[:20], 400, "INVALID_TENSOR"),
            (b"", 400, "INVALID_TENSOR"),
            (good + b"x", 400, "INVALID_TENSOR"),
            (struct.pack("<Q", 1 << 62) + b"{}", 413, "TOO_LARGE"),
            (b"\x93NUMPY\x01\x00", 413, "TOO_LARGE"),
        ]
        for file, status, reason in cases:
            with self.subTest(file[:90]):
                reply = self.put("w", file)
                self.assertEqual((reply.status, reply.reason), (status, reason), reply)
        got = self.rest.get(self.path("w", "?format=safetensors"))
        self.assertEqual(got.headers["ETag"], made.headers["ETag"])
        self.assertEqual(parse(got.body)[0], {"w": ("F32", [2], content)})
        reply = self.put("w", good, If_Match='"1-99"')
        self.assertEqual(reply.status, 412)

    def test_the_name_that_the_format_keeps_for_itself_is_refused(self):
        key = "__metadata__"
        raw = "?format=raw&dtype=f32&shape=1"
        self.assertEqual(self.rest.put(self.path(key, raw), bytes(4)).status, 201)
        reply = self.rest.get(self.path(key, "?format=safetensors"))
        self.assertEqual((reply.status, reply.reason), (422, "INVALID_FIELD"))
        self.assertEqual(self.rest.get(self.path(key)).status, 200)

    def test_grpc_gives_and_takes_the_same_file(self):
        content = content_of(600 * 700, 2)
        file = write({"rpc": ("BF16", [600, 700], content)})
        pieces = [pb.PutValueChunk(data=file[at:at + (1 << 20)])
                  for at in range(0, len(file), 1 << 20)]
        pieces[0].key = "rpc"
        pieces[0].format = "safetensors"
        with grpc.insecure_channel(self.server.grpc) as channel:
            admin = stubs.AdminStub(channel)
            admin.PutValue(iter(pieces), timeout=20)
            chunks = list(admin.GetValue(pb.GetValueRequest(key="rpc", format="safetensors"),
                                         timeout=20))
        self.assertEqual(chunks[0].content_type, TYPE)
        got = b"".join(chunk.data for chunk in chunks)
        self.assertEqual(parse(got)[0], {"rpc": ("BF16", [600, 700], content)})
        self.assertEqual(got, self.rest.get(self.path("rpc", "?format=safetensors")).body)


if __name__ == "__main__":
    support.main()
