"""Values by REST: npy, raw, versions as ETags, ranges, conditions, what is refused."""

import http.client
import io
import threading
import urllib.parse

import support
from rest_client import Rest
from support import Case, Server

try:
    import numpy
except ImportError:
    support.skip("python3-numpy is not installed")


def npy(array):
    file = io.BytesIO()
    numpy.save(file, array)
    return file.getvalue()


def load(data):
    return numpy.load(io.BytesIO(data))


class Values(Case):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-memory", "64MiB")
        cls.rest = Rest(cls.server.http)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def path(self, key):
        return f"/v1/keys/{urllib.parse.quote(key, safe='')}/value"

    def create(self, key, array):
        reply = self.rest.put(self.path(key), npy(array))
        self.assertEqual(reply.status, 201, reply)
        return reply.headers["ETag"]

    def test_npy_comes_back_byte_for_byte_in_every_dtype_and_shape(self):
        random = numpy.random.default_rng(7)
        shapes = [(), (1,), (0,), (3, 0, 2), (2, 3), (5, 1, 7), (700, 1000), (1,) * 32]
        for dtype in ["<f4", "<f8", "u1", "i1", "<i4", "<i8"]:
            for shape in shapes:
                if numpy.prod(shape) > 1000 and dtype != "<f4":
                    continue  # three parts need to be tried once
                with self.subTest(dtype=dtype, shape=shape):
                    key = f"npy/{dtype}/{shape}"
                    array = numpy.asarray(random.normal(size=shape) * 50).astype(dtype)
                    self.create(key, array)
                    reply = self.rest.get(self.path(key))
                    self.assertEqual((reply.status, reply.type), (200, "application/x-npy"))
                    back = load(reply.body)
                    self.assertEqual((back.dtype, back.shape), (array.dtype, array.shape))
                    self.assertEqual(back.tobytes(), array.tobytes())

    def test_special_floats_keep_their_bits(self):
        bits = numpy.array([0x80000000, 0x7f800000, 0x7fc00001, 0xffc12345, 1], dtype="<u4")
        self.create("bits", bits.view("<f4"))
        reply = self.rest.get(self.path("bits") + "?format=raw")
        self.assertEqual(reply.body, bits.tobytes())

    def test_versions_2_and_3_of_npy_are_read(self):
        array = numpy.arange(6, dtype="<f4")
        for version in [(2, 0), (3, 0)]:
            file = io.BytesIO()
            numpy.lib.format.write_array(file, array, version=version)
            reply = self.rest.put(self.path(f"version{version[0]}"), file.getvalue())
            self.assertEqual(reply.status, 201, reply)

    def test_raw_takes_dtype_and_shape_from_the_query_or_from_the_key(self):
        data = numpy.arange(6, dtype="<f8").tobytes()
        path = self.path("raw")
        self.assertEqual(self.rest.put(path, data).reason, "INVALID_TENSOR")
        made = self.rest.put(path + "?format=raw&dtype=f64&shape=2,3", data)
        self.assertEqual((made.status, made.json["shape"], made.json["dtype"]),
                         (201, ["2", "3"], "f64"))
        self.assertEqual(self.rest.put(path, bytes(48)).status, 200)
        reply = self.rest.ask("GET", path, headers={"Accept": "application/octet-stream"})
        self.assertEqual((reply.body, reply.type), (bytes(48), "application/octet-stream"))
        self.assertEqual((reply.headers["Kv-Dtype"], reply.headers["Kv-Shape"]), ("f64", "2,3"))

    def test_a_raw_scalar_has_an_empty_shape(self):
        made = self.rest.put(self.path("scalar") + "?dtype=i64&shape=", bytes(8))
        self.assertEqual((made.status, made.json["shape"]), (201, []), made)

    def test_the_etag_is_the_version_and_grows_with_each_assignment(self):
        epoch = int(self.rest.get("/version").json["epoch"])
        self.assertEqual(self.create("etag", numpy.zeros(4)), f'"{epoch}-0"')
        for count in range(1, 4):
            reply = self.rest.put(self.path("etag"), npy(numpy.full(4, float(count))))
            self.assertEqual((reply.status, reply.headers["ETag"]), (200, f'"{epoch}-{count}"'))
            self.assertEqual(reply.json["version"], {"epoch": str(epoch), "count": str(count)})
            read = self.rest.get(self.path("etag"))
            self.assertEqual(read.headers["ETag"], f'"{epoch}-{count}"')
            self.assertEqual(load(read.body)[0], count)

    def test_if_none_match_spares_what_is_known(self):
        tag = self.create("known", numpy.zeros(4))
        for header in [tag, f'"0-0", {tag}', f"W/{tag}", "*"]:
            reply = self.rest.get(self.path("known"), If_None_Match=header)
            self.assertEqual((reply.status, reply.body, reply.headers["ETag"]), (304, b"", tag))
        self.assertEqual(self.rest.get(self.path("known"), If_None_Match='"0-0"').status, 200)

    def test_ranges_give_parts_across_the_borders_of_parts(self):
        array = numpy.arange(600000, dtype="<f4")
        tag = self.create("range", array)
        whole = array.tobytes()
        path = self.path("range") + "?format=raw"
        part = 262144 * 4
        for first, last in [(0, 0), (0, 99), (part - 3, part + 5), (part * 2 - 1, part * 2),
                            (len(whole) - 1, len(whole) - 1), (1, len(whole) - 2)]:
            reply = self.rest.get(path, Range=f"bytes={first}-{last}")
            self.assertEqual((reply.status, reply.body), (206, whole[first:last + 1]))
            self.assertEqual(reply.headers["Content-Range"], f"bytes {first}-{last}/{len(whole)}")
        self.assertEqual(self.rest.get(path, Range="bytes=-5").body, whole[-5:])
        self.assertEqual(self.rest.get(path, Range=f"bytes={part}-").body, whole[part:])
        self.assertEqual(self.rest.get(path, Range="bytes=0-1,4-5").status, 200)
        self.assertEqual(self.rest.get(path, Range="bytes=0-1", If_Range=tag).status, 206)
        self.assertEqual(self.rest.get(path, Range="bytes=0-1", If_Range='"0-0"').status, 200)
        reply = self.rest.get(path, Range=f"bytes={len(whole)}-")
        self.assertEqual((reply.status, reply.headers["Content-Range"]),
                         (416, f"bytes */{len(whole)}"))

    def test_a_range_of_a_npy_counts_its_head(self):
        data = npy(numpy.arange(100, dtype="<f4"))
        self.create("range-npy", numpy.arange(100, dtype="<f4"))
        reply = self.rest.get(self.path("range-npy"), Range="bytes=100-200")
        self.assertEqual(reply.body, data[100:201])

    def test_head_tells_length_and_version_without_the_value(self):
        tag = self.create("head", numpy.zeros(10))
        reply = self.rest.ask("HEAD", self.path("head"))
        self.assertEqual((reply.status, reply.body, reply.headers["ETag"]), (200, b"", tag))
        self.assertEqual(reply.headers["Content-Length"], str(128 + 80))

    def test_if_match_assigns_only_that_version(self):
        first = self.create("match", numpy.zeros(4))
        path = self.path("match")
        second = self.rest.put(path, npy(numpy.ones(4)), If_Match=first)
        self.assertEqual(second.status, 200)
        stale = self.rest.put(path, npy(numpy.ones(4) * 9), If_Match=first)
        self.assertEqual((stale.status, stale.reason), (412, "ETAG_MISMATCH"))
        self.assertEqual(self.rest.put(path, npy(numpy.ones(4)), If_Match='"x"').status, 412)
        self.assertEqual(self.rest.put(path, npy(numpy.ones(4)), If_Match="*").status, 200)
        self.assertEqual(self.rest.put(self.path("none"), npy(numpy.ones(4)),
                                       If_Match="*").status, 412)
        self.assertEqual(load(self.rest.get(path).body).tolist(), [1.0] * 4)

    def test_if_none_match_star_only_creates(self):
        path = self.path("once")
        self.assertEqual(self.rest.put(path, npy(numpy.ones(4)), If_None_Match="*").status, 201)
        self.assertEqual(self.rest.put(path, npy(numpy.zeros(4)), If_None_Match="*").status, 412)
        self.assertEqual(load(self.rest.get(path).body).tolist(), [1.0] * 4)

    def test_two_who_count_by_if_match_lose_no_step(self):
        self.create("counter", numpy.zeros(1))
        path = self.path("counter")
        lost = []

        def count(steps):
            while steps > 0:
                read = self.rest.get(path)
                value = load(read.body)
                reply = self.rest.put(path, npy(value + 1), If_Match=read.headers["ETag"])
                if reply.status == 200:
                    steps -= 1
                else:
                    lost.append(reply.status)

        threads = [threading.Thread(target=count, args=(40,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(load(self.rest.get(path).body)[0], 120)
        self.assertEqual(set(lost) - {412}, set())

    def test_a_body_in_chunks_is_a_body(self):
        data = npy(numpy.arange(50000, dtype="<f4"))
        connection = http.client.HTTPConnection(self.server.http, timeout=20)
        connection.request("PUT", self.path("chunks"), encode_chunked=True,
                           body=(data[i:i + 9999] for i in range(0, len(data), 9999)),
                           headers={"Transfer-Encoding": "chunked"})
        self.assertEqual(connection.getresponse().status, 201)
        connection.close()
        self.assertEqual(self.rest.get(self.path("chunks")).body, data)

    def test_keys_of_any_text_are_named_by_percent_encoding(self):
        for key in ["a/b", "a%2Fb", "ä ö", "a+b?c#d", "..", "日本"]:
            with self.subTest(key=key):
                self.create(key, numpy.zeros(1))
                found = self.rest.get(f"/v1/keys/{urllib.parse.quote(key, safe='')}")
                self.assertEqual(found.json["key"], key)

    def test_what_does_not_fit_is_refused_and_changes_nothing(self):
        array = numpy.arange(6, dtype="<f4").reshape(2, 3)
        tag = self.create("fit", array)
        good = npy(array)
        cases = [
            (npy(array.astype("<f8")), 409, "KEY_EXISTS"),
            (npy(array.reshape(3, 2)), 409, "KEY_EXISTS"),
            (npy(array.astype(">f4")), 400, "INVALID_TENSOR"),
            (npy(numpy.asfortranarray(array)), 400, "INVALID_TENSOR"),
            (npy(array.astype("<c8")), 400, "INVALID_TENSOR"),
            (good[:-1], 400, "INVALID_TENSOR"),
            (good[:40], 400, "INVALID_TENSOR"),
            (good + b"x", 400, "INVALID_TENSOR"),
            (b"", 400, "INVALID_TENSOR"),
            (bytes(23), 400, "INVALID_TENSOR"),
        ]
        for body, status, reason in cases:
            with self.subTest(body=body[:80]):
                reply = self.rest.put(self.path("fit"), body)
                self.assertEqual((reply.status, reply.reason), (status, reason), reply)
        reply = self.rest.put(self.path("fit"), bytes(25), Content_Type="application/octet-stream")
        self.assertEqual((reply.status, reply.reason), (413, "TOO_LARGE"), reply)
        read = self.rest.get(self.path("fit"))
        self.assertEqual((read.headers["ETag"], read.body), (tag, good))

    def test_a_format_that_there_is_not_is_refused(self):
        self.create("format", numpy.zeros(1))
        reply = self.rest.get(self.path("format") + "?format=png")
        self.assertEqual((reply.status, reply.reason), (422, "INVALID_FIELD"))
        self.assertIn("safetensors", reply.json["detail"])

    def test_a_value_above_the_memory_budget_is_refused(self):
        reply = self.rest.put(self.path("huge") + "?format=raw&dtype=f32&shape=18000000",
                              bytes(72000000))
        self.assertEqual((reply.status, reply.reason), (429, "OVER_BUDGET"), reply)
        self.assertEqual(reply.headers["Retry-After"], "1")
        self.assertEqual(self.rest.get("/v1/keys/huge").status, 404)


if __name__ == "__main__":
    support.main()
