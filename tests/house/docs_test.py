"""What the documents say about the tree is so: names, paths, links, the error table, records.

ARCHITECTURE.md is the walk: every name in backticks there exists. Elsewhere every path does.
"""
import os
import re
import unittest

import tree

FENCE = re.compile(r"^```.*?^```\s*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"^[A-Za-z0-9_.][A-Za-z0-9_.{},-]*(/[A-Za-z0-9_.{},-]+)*/?$")
SUFFIXES = (".c", ".h", ".cu", ".py", ".sh", ".md", ".txt", ".cmake", ".proto", ".yaml", ".json",
            ".inc", "/")
GAP = r"[\s\\]*"  # between the arguments of a macro that goes over several lines
ROW = re.compile(r'X\(([A-Z_]+),%s(\d+),%s(\d+),%s"([^"]*)",%s"([^"]*)"\)' % ((GAP,) * 4))


def documents():
    return [path for path in tree.files(".md") if path.startswith("docs/") or "/" not in path]


def alternatives(path):
    """a/b.{h,c} -> a/b.h, a/b.c."""
    found = re.search(r"\{([^}]*)\}", path)
    if not found:
        return [path]
    return [path[:found.start()] + word + path[found.end():] for word in found[1].split(",")]


def is_path(word):
    """Paths of the tree; not build/, not a bare file name that a user would choose."""
    return (PATH.match(word) and "/" in word and word.endswith(SUFFIXES)
            and not word.startswith(("build", ".", "/")) and "NNNN" not in word)


def missing_paths(text):
    words = [word for word in CODE.findall(FENCE.sub("", text)) if is_path(word)]
    return sorted({path for word in words for path in alternatives(word)
                   if not tree.exists(path)})


def names_of_the_tree():
    """Every identifier of our sources."""
    names = set()
    for path in tree.files(".c", ".h", ".cu", ".inc", ".proto", ".py", ".cmake"):
        if not path.startswith(("docs/", "tests/house/")):
            names.update(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", tree.read(path)))
    return names


def missing_names(text):
    """Backticked identifiers that no source holds. Words with other signs are not names."""
    known = names_of_the_tree()
    missing = set()
    for word in CODE.findall(FENCE.sub("", text)):
        bare = word[:-2] if word.endswith("()") else word
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", bare) \
                and not tree.exists(bare):
            missing.update(part for part in bare.split(".") if part not in known)
    return sorted(missing)


# The calls of MXNet's KVStore, each with a row of docs/MXNET.md.
MXNET_NAMES = ("create", "init", "push", "pull", "pushpull", "broadcast", "row_sparse_pull",
               "set_optimizer", "set_gradient_compression", "save_optimizer_states",
               "load_optimizer_states", "_set_updater", "type", "rank", "num_workers",
               "is_capable", "_barrier", "_send_command_to_servers")


def rpcs():
    """Service.Method of the proto."""
    found = set()
    for name, body in re.findall(r"^service (\w+) \{\n(.*?)^\}", tree.read("api/kvstored.proto"),
                                 re.MULTILINE | re.DOTALL):
        found.update("%s.%s" % (name, method) for method in re.findall(r"rpc (\w+)\(", body))
    return found


def routes():
    """METHOD /path of openapi.yaml."""
    found = set()
    for path, body in re.findall(r"^  (/\S*):\n((?:(?:    .*)?\n)+)", tree.read("openapi.yaml"),
                                 re.MULTILINE):
        found.update("%s %s" % (method.upper(), path)
                     for method in re.findall(r"^    (get|put|post|delete):", body, re.MULTILINE))
    return found


def missing_names_of_clients(text):
    """Backticked names of C, Python, Perl, gRPC, REST, settings and errors that are nowhere."""
    header = set(re.findall(r"\bkv_\w+|\bKV_\w+", tree.read("client/include/kvstore/kvstore.h")))
    perl = tree.read("client/perl/lib/AI/KVStored.pm")
    methods = set(re.findall(r"^sub (\w+)|'::(\w+)'\}", perl, re.MULTILINE))
    methods = {name for pair in methods for name in pair}
    python = tree.read("client/python/kvstored/_store.py")
    functions = {"kv." + name for name in re.findall(r"^    def (\w+)", python, re.MULTILINE)}
    functions.update("kvstored." + name for name in re.findall(r"^def (\w+)", python, re.MULTILINE))
    functions.update("kvstored." + os.path.basename(path)[:-3]
                     for path in tree.files(".py", under="client/python/kvstored"))
    settings = set(re.findall(r'ROW\("([a-z-]+)"', tree.read("service/settings.c")))
    kinds = (
        (r"(?:kv|KV)_\w+(\.\w+)?$", header),
        (r"(?:kv|kvstored)\.\w+$", functions),
        (r"->\w+$", {"->" + name for name in methods}),
        (r"(?:KVStore|Admin)\.\w+$", rpcs()),
        (r"(?:GET|PUT|POST|DELETE) \S+$", routes()),
        (r"--[a-z-]+$", {"--" + name for name in settings}),
        (r"(?!DMLC_|PS_|MXNET_|KV_)[A-Z]+_[A-Z_]+$|UNIMPLEMENTED$|UNAVAILABLE$",
         set(status_rows())),
    )
    missing = set()
    for word in re.findall(r"`([^`]+)`", FENCE.sub("", text)):
        word = " ".join(word.split())
        name = re.sub(r"^([A-Z]+) S(?=/|$)", r"\1 /v1/stores/{store}", word)
        for pattern, known in kinds:
            if re.match(pattern, name) and name not in known:
                missing.add(word)
    return sorted(missing)


def status_rows():
    return {name: (int(grpc), int(http), advice)
            for name, grpc, http, _, advice in ROW.findall(tree.read("base/status.h"))}


class Documents(unittest.TestCase):
    def test_every_path_that_a_document_names_exists(self):
        for path in documents():
            with self.subTest(path):
                self.assertEqual([], missing_paths(tree.read(path)))

    def test_every_link_between_documents_leads_somewhere(self):
        for path in documents():
            for target in LINK.findall(FENCE.sub("", tree.read(path))):
                if re.match(r"^[a-z]+:", target) or target.startswith("#"):
                    continue
                with self.subTest(path + ": " + target):
                    here = os.path.join(os.path.dirname(path), target.split("#")[0])
                    self.assertTrue(tree.exists(here))

    def test_every_name_of_the_walk_exists(self):
        self.assertEqual([], missing_names(tree.read("docs/ARCHITECTURE.md")))

    def test_a_function_of_the_walk_is_in_the_file_that_is_named_beside_it(self):
        pairs = re.findall(r"`(\w+)`\s+\(`([\w/]+\.c)`", tree.read("docs/ARCHITECTURE.md"))
        self.assertGreater(len(pairs), 5)
        for name, path in pairs:
            with self.subTest(name):
                self.assertRegex(tree.read(path), r"(?m)^[a-z].*\b%s\(" % name)

    def test_the_walk_names_every_folder_of_the_server(self):
        text = tree.read("docs/ARCHITECTURE.md")
        for folder in ("base/", "api/", "engine/", "cuda/", "service/", "client/"):
            self.assertIn("`" + folder, text)

    def test_a_name_or_a_path_that_is_not_there_is_seen(self):
        self.assertEqual(["kvs_no_such_name"], missing_names("see `kvs_no_such_" + "name()`"))
        self.assertEqual(["engine/nowhere.c"], missing_paths("see `engine/nowhere.c`"))

    def test_every_error_has_its_row_in_the_error_document_and_back(self):
        rows = status_rows()
        self.assertGreater(len(rows), 30)
        told = {}
        for name, grpc, http, advice in re.findall(
                r"^\| `([A-Z_]+)` \| (\d+) [A-Z_]+ \| (\d+) \|.*\| ([^|]*) \|$",
                tree.read("docs/ERRORS.md"), re.MULTILINE):
            told[name] = (int(grpc), int(http), "" if advice == "–" else advice)
        self.assertEqual(rows, told)

    def test_the_ten_lines_of_the_readme_are_those_of_the_example(self):
        block = re.search(r"^```c\n(.*?)^```", tree.read("README.md"), re.MULTILINE | re.DOTALL)[1]
        program = [line.strip() for line in tree.read("examples/push_pull.c").split("\n")]
        for line in block.split("\n"):
            wanted = line.strip()
            if wanted not in ("", "..."):
                found = [i for i, text in enumerate(program) if wanted in text]
                self.assertTrue(found, wanted)
                del program[:found[0] + 1]

    def test_every_setting_stands_in_the_operations_document_and_back(self):
        settings = re.findall(r'^\s*ROW\("([a-z-]+)", [A-Z_]+, "([^"]*)",',
                              tree.read("service/settings.c"), re.MULTILINE)
        self.assertGreater(len(settings), 15)
        told = re.findall(r"^\| `--([a-z-]+)` \| (\S*) \|", tree.read("docs/OPERATIONS.md"),
                          re.MULTILINE)
        self.assertEqual(sorted((name, default or "none") for name, default in settings),
                         sorted(told))

    def test_every_exit_code_stands_in_the_operations_document_and_back(self):
        codes = re.findall(r"^    EXIT_\w+ = (\d+)", tree.read("service/main.c"), re.MULTILINE)
        told = re.findall(r"^\| (\d+) \|", tree.read("docs/OPERATIONS.md"), re.MULTILINE)
        self.assertEqual(codes, told)

    def test_every_admin_method_stands_in_the_protocol_document(self):
        service = tree.read("api/kvstored.proto").split("service Admin {")[1].split("\n}")[0]
        methods = re.findall(r"rpc (\w+)\(", service)
        self.assertGreater(len(methods), 20)
        table = tree.read("docs/PROTOCOL.md").split("## Admin")[1]
        told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
        self.assertEqual(sorted(methods), sorted(told))

    def test_every_name_of_the_page_on_mxnet_exists(self):
        text = tree.read("docs/MXNET.md")
        self.assertEqual([], missing_names_of_clients(text))
        for name in MXNET_NAMES:
            self.assertRegex(text, r"(?m)^\| `%s\b" % name)

    def test_a_client_name_that_is_not_there_is_seen(self):
        for word in ("kv_pul", "->puul", "kv.pulll", "kvstored.creat", "KVStore.Pushh",
                     "GET /v1/storees", "GET S/push", "--no-such", "NO_SUCH_KEY", "kv_options.rnk"):
            text = "a `kv_pull` of `%s`" % word
            self.assertEqual([word], missing_names_of_clients(text), word)

    def test_decision_records_are_numbered_and_say_the_four_things(self):
        records = tree.files(".md", under="docs/decisions")
        numbers = [int(os.path.basename(path)[:4]) for path in records]
        self.assertEqual(list(range(1, len(records) + 1)), numbers)
        for path in records:
            with self.subTest(path):
                text = tree.read(path)
                for part in ("## Context", "## Choice", "## Cost", "## We would notice"):
                    self.assertIn(part, text)
                self.assertLess(text.count("\n"), 70, "one page")

    def test_the_changelog_has_unreleased_on_top(self):
        headings = re.findall(r"^## (.*)$", tree.read("CHANGELOG.md"), re.MULTILINE)
        self.assertEqual("Unreleased", headings[0])


tree.main()
