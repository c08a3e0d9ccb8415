"""Keys, arrays and errors: what is taken, what is refused and with which words."""

import array
import pickle
import re

import numpy

import case
import kvstored

KINDS = ["float32", "float64", "float16", "uint8", "int8", "int32", "int64"]


class Arguments(case.Case):
    def setUp(self):
        self.kv = kvstored.create("local")
        self.addCleanup(self.kv.close)

    def pulled(self, key, shape, kind="float32"):
        out = numpy.zeros(shape, kind)
        self.kv.pull(key, out)
        return out

    def test_every_dtype_and_rank_comes_back(self):
        for i, kind in enumerate(KINDS):
            for rank in range(4):
                key = f"{kind}.{rank}"
                value = (numpy.arange(2 ** rank) + i).reshape((2,) * rank).astype(kind)
                self.kv.init(key, value)
                self.assert_array(value, self.pulled(key, value.shape, kind))

    def test_an_array_without_elements_is_a_value(self):
        self.kv.init("none", numpy.zeros((0, 3), "float32"))
        self.kv.push("none", numpy.zeros((0, 3), "float32"))
        self.assertEqual((0, 3), self.pulled("none", (0, 3)).shape)

    def test_values_that_are_not_contiguous_are_read_right(self):
        whole = numpy.arange(24, dtype="float32").reshape(4, 6)
        self.kv.init("w", whole[:, ::2])
        self.assert_array(whole[:, ::2], self.pulled("w", (4, 3)))
        self.kv.push("w", numpy.asfortranarray(whole[:, 1::2]))
        self.assert_array(whole[:, 1::2], self.pulled("w", (4, 3)))

    def test_outs_that_are_not_contiguous_are_filled_in_place(self):
        self.kv.init("w", numpy.arange(12, dtype="float32").reshape(4, 3))
        whole = numpy.full((4, 6), -1, "float32")
        self.kv.pull("w", whole[:, ::2])
        self.assert_array(numpy.arange(12).reshape(4, 3), whole[:, ::2])
        self.assert_array(-1, whole[:, 1::2])
        turned = numpy.zeros((3, 4), "float32")
        self.kv.pushpull("w", numpy.ones((4, 3), "float32"), out=turned.T)
        self.assert_array(1, turned)
        values = numpy.ones((4, 6), "float32")
        self.kv.pushpull("w", [values[:, ::2], values[:, 1::2]])
        self.assert_array(2, values)

    def test_whatever_has_a_buffer_is_an_array(self):
        self.kv.init("w", array.array("f", [1, 2]))
        out = array.array("f", [0, 0])
        self.kv.pull("w", out)
        self.assertEqual([1, 2], out.tolist())
        memory = bytearray(8)
        self.kv.pull("w", memoryview(memory).cast("f"))
        self.assert_array([1, 2], numpy.frombuffer(memory, "float32"))

    def test_scalars_of_numpy_are_values_and_no_outs(self):
        self.kv.init("s", numpy.float32(2.5))
        self.assert_array(2.5, self.pulled("s", ()))
        with self.refused("INVALID_TENSOR", "Pass a numpy array."):
            self.kv.pull("s", numpy.float32(0))

    def test_what_cannot_be_an_array_is_refused_with_the_remedy(self):
        for value, words in ((1.0, "Pass a numpy array."), ("text", "Pass a numpy array."),
                             (numpy.zeros(2, "complex64"), "astype"),
                             (numpy.zeros(2, ">f4"), "astype"),
                             (numpy.array(["a"]), "astype"), (numpy.zeros(2, object), "astype")):
            with self.refused("INVALID_TENSOR", words):
                self.kv.init("w", value)
        self.kv.init("w", numpy.zeros(2, "float32"))
        fixed = numpy.zeros(2, "float32")
        fixed.flags.writeable = False
        with self.refused("INVALID_TENSOR", "may be written"):
            self.kv.pull("w", fixed)
        self.kv.push("w", fixed)
        with self.refused("INVALID_FIELD", "out is needed"):
            self.kv.pull("w", None)

    def test_dtype_or_size_of_another_kind_is_refused(self):
        self.kv.init("w", numpy.ones((2, 3), "float32"))
        for out in (numpy.zeros((2, 3), "float64"), numpy.zeros((2, 2), "float32"),
                    numpy.zeros((3, 3), "float32")):
            with self.refused("INVALID_TENSOR"):
                self.kv.pull("w", out)
        with self.refused("INVALID_TENSOR"):
            self.kv.push("w", numpy.zeros((2, 2), "float32"))
        with self.refused("INVALID_TENSOR", "differ"):
            self.kv.push("w", [numpy.zeros((2, 3), "float32"), numpy.zeros((2, 2), "float32")])
        self.assert_array(1, self.pulled("w", (2, 3)))

    def test_keys_are_ints_or_texts(self):
        value = numpy.zeros(1, "float32")
        for key in (True, 1.5, None, b"w", numpy.bool_(True), {}):
            with self.refused("INVALID_FIELD", "int or a str"):
                self.kv.init(key, value)
        for key in ("a\0b", "\udc80", ""):
            with self.refused("INVALID_FIELD"):
                self.kv.init(key, value)
        with self.refused("INVALID_FIELD", "64 bits"):
            self.kv.init(2 ** 63, value)
        with self.refused("INVALID_FIELD"):
            self.kv.init("x" * 257, value)
        self.kv.init(numpy.int64(4), value)
        self.kv.init([-2 ** 63, 2 ** 63 - 1], [value, value])
        with self.refused("INVALID_FIELD", "numbers so far"):
            self.kv.init("four", value)

    def test_any_text_is_a_key(self):
        for i, key in enumerate(("ключ", "a/b c", "層.0", "%2F?#")):
            self.kv.init(key, numpy.full(1, i, "float32"))
            self.assert_array(i, self.pulled(key, 1))

    def test_lists_that_do_not_match_are_refused(self):
        value = numpy.zeros(1, "float32")
        with self.refused("INVALID_FIELD", "2 keys, but value has 1"):
            self.kv.init([1, 2], [value])
        with self.refused("INVALID_FIELD", "is a list"):
            self.kv.init([1, 2], numpy.zeros((2, 1), "float32"))
        with self.refused("INVALID_FIELD", "one value a key"):
            self.kv.init(1, [value, value])
        with self.refused("INVALID_FIELD"):
            self.kv.init([1, 1], [value, value])
        self.kv.init(1, value)
        with self.refused("INVALID_FIELD", "no array"):
            self.kv.push(1, [])
        with self.refused("INVALID_TENSOR"):
            self.kv.push([1], [[[value]]])
        self.kv.init((2, 3), (value, value))

    def test_a_call_of_no_keys_does_nothing(self):
        self.kv.init([], [])
        self.kv.push([], [])
        self.kv.pull([], [])
        self.kv.wait()

    def test_a_key_that_stands_twice_is_summed(self):
        self.kv.init(3, numpy.zeros(1, "float32"))
        self.kv.push([3, 3], [numpy.full(1, 2, "float32"), [numpy.full(1, 5, "float32")] * 2])
        self.assert_array(12, self.pulled(3, 1))

    def test_memory_of_empty_is_aligned_and_read_where_it_lies(self):
        value = kvstored.empty((3, 5), "float64")
        self.assertEqual(((3, 5), "float64"), (value.shape, value.dtype))
        self.assertEqual(0, value.ctypes.data % 64)
        self.assertEqual("float32", kvstored.empty(4).dtype)
        flags = self.kv._flags
        packed = kvstored._store.Packed
        self.assertEqual(1, flags(packed("w", value, with_values=True), True))
        self.assertEqual(1, flags(packed("w", value[1:], with_values=True), True))
        self.assertEqual(0, flags(packed("w", value + 1, with_values=True), True))
        self.assertEqual(1, flags(packed("w", value + 1, with_values=True), False))
        known = len(kvstored._arguments._borrowable)
        del value
        self.assertEqual(known - 2, len(kvstored._arguments._borrowable) - 1)

    def test_an_error_says_what_and_what_to_do(self):
        with self.assertRaises(kvstored.KVStoreError) as caught:
            self.pulled("nothing", 1)
        error = caught.exception
        self.assertIsInstance(error, RuntimeError)
        self.assertEqual(("KEY_NOT_FOUND", 5), (error.reason, error.code))
        self.assertIn("nothing", error.detail)
        self.assertIn("Call init", error.next_step)
        self.assertEqual(f"KEY_NOT_FOUND: {error.detail}. {error.next_step}", str(error))
        again = pickle.loads(pickle.dumps(error))
        self.assertEqual((str(error), error.code), (str(again), again.code))
        with self.refused("INVALID_FIELD", "capability"):
            self.kv.is_capable("flight")

    def test_a_closed_store_refuses_all(self):
        self.kv.close()
        self.kv.close()
        for call in (lambda: self.kv.type, lambda: self.kv.init(1, numpy.zeros(1)), self.kv.wait,
                     lambda: self.kv.pull(1, numpy.zeros(1)), self.kv.barrier):
            with self.refused("STOPPING", "closed"):
                call()
        self.assertIn("closed", repr(self.kv))

    def test_a_second_init_is_an_error(self):
        self.kv.init("w", numpy.zeros(1, "float32"))
        with self.refused("KEY_EXISTS", "no second init"):
            self.kv.init("w", numpy.zeros(1, "float32"))

    def test_what_is_no_function_or_no_text_is_refused(self):
        with self.refused("INVALID_FIELD", "an updater is a function, not int"):
            self.kv._set_updater(5)
        for body in (b"x", None):
            with self.refused("INVALID_FIELD", "a body is a str, not"):
                self.kv._send_command_to_servers(7, body)

    def test_shapes_of_empty_are_those_of_numpy(self):
        for shape in (numpy.int64(3), (numpy.uint8(2), 3), [2, 3], (), 0):
            self.assertEqual(numpy.empty(shape).shape, kvstored.empty(shape).shape)
        with self.refused("INVALID_FIELD", "negative"):
            kvstored.empty((2, -1))

    def test_types_are_text_in_lower_case(self):
        with kvstored.create("Device") as kv:
            self.assertEqual("device", kv.type)
        with self.assertRaises(TypeError):
            kvstored.create(3)
        with self.refused("INVALID_FIELD", "address"):
            kvstored.create("dist_sync")


class Declarations(case.Case):
    def test_functions_take_as_many_arguments_as_the_header_says(self):
        text = (case.SOURCE / "client/include/kvstore/kvstore.h").read_text(encoding="utf-8")
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        declared = {}
        for name, arguments in re.findall(r"KV_API [^(;]*?(kv_\w+)\(([^)]*)\)", text):
            declared[name] = 0 if arguments == "void" else arguments.count(",") + 1
        self.assertGreater(len(declared), 25)
        library = kvstored._library
        for name, (_, arguments) in library._FUNCTIONS.items():
            self.assertEqual(declared[name], len(arguments), name)

    def test_numbers_of_dtypes_are_those_of_the_header(self):
        text = (case.SOURCE / "client/include/kvstore/kvstore.h").read_text(encoding="utf-8")
        for name, number in re.findall(r"KV_([BFUI]\w+) = (\d)", text):
            self.assertEqual(int(number), getattr(kvstored._library, name))


class Updaters(case.Case):
    def setUp(self):
        self.kv = kvstored.create()
        self.addCleanup(self.kv.close)
        self.kv.init(["a", "b"], [numpy.ones((2, 2), "float32")] * 2)

    def pulled(self, key="a"):
        out = numpy.zeros((2, 2), "float32")
        self.kv.pull(key, out)
        return out

    def test_it_sees_whole_arrays_once_a_key(self):
        seen = []
        self.kv._set_updater(lambda *given: seen.append([given[0], given[1].copy(),
                                                         given[2].copy()]))
        twos = numpy.full((2, 2), 2, "float32")
        self.kv.push(["a", "b"], [[twos, twos], twos])
        self.assertEqual(["a", "b"], [key for key, _, _ in seen])
        self.assert_array(4, seen[0][1])
        self.assertEqual((2, 2), seen[0][2].shape)
        self.assert_array(1, seen[0][2])

    def test_its_exception_is_the_pushs_and_changes_nothing(self):
        def update(key, input, stored):
            stored += input
            if key == "a":
                raise ZeroDivisionError(key)

        self.kv._set_updater(update)
        with self.assertRaises(ZeroDivisionError):
            self.kv.push(["a", "b"], [numpy.ones((2, 2), "float32")] * 2)
        self.assertEqual(0, len(self.kv._native.inflight))
        self.assert_array(1, self.pulled("a"))
        self.assert_array(1, self.pulled("b"))
        with self.assertRaises(ZeroDivisionError):
            self.kv.push(["a", "c"], [numpy.ones((2, 2), "float32")] * 2)
        with self.refused("KEY_NOT_FOUND"):
            self.kv.push(["b", "c"], [numpy.ones((2, 2), "float32")] * 2)
        self.assert_array(2, self.pulled("b"))
        self.kv.push("b", numpy.ones((2, 2), "float32"))
        self.assert_array(3, self.pulled("b"))

    def test_each_thread_gets_the_exception_of_its_own_push(self):
        def update(key, input, stored):
            raise KeyError(key)

        def work(key):
            for _ in range(50):
                with self.assertRaises(KeyError) as caught:
                    self.kv.push(key, numpy.ones((2, 2), "float32"))
                self.assertEqual((key,), caught.exception.args)

        self.kv._set_updater(update)
        case.together(lambda: work("a"), lambda: work("b"))

    def test_its_input_is_read_only(self):
        def update(key, input, stored):
            input += 1

        self.kv._set_updater(update)
        with self.assertRaises(ValueError):
            self.kv.push("a", numpy.ones((2, 2), "float32"))

    def test_it_must_not_call_its_store(self):
        self.kv._set_updater(lambda key, input, stored: self.pulled())
        with self.refused("INVALID_FIELD", "calls its own store"):
            self.kv.push("a", numpy.ones((2, 2), "float32"))

    def test_it_is_taken_away_by_none_and_by_an_optimizer(self):
        def update(key, input, stored):
            stored[...] = -1

        self.kv._set_updater(update)
        self.kv._set_updater(None)
        self.kv.push("a", numpy.full((2, 2), 3, "float32"))
        self.assert_array(3, self.pulled())
        self.kv._set_updater(update)
        self.kv.set_optimizer(kvstored.optimizer.SGD(learning_rate=1))
        self.kv.push("a", numpy.ones((2, 2), "float32"))
        self.assert_array(2, self.pulled())


if __name__ == "__main__":
    case.main()
