"""The Kubernetes base, as kubectl renders it or as it is written: restricted pods, true probes.

usage: manifests_test.py written|rendered
"""
import os
import re
import shutil
import subprocess
import sys
import unittest

import tree

HOW = sys.argv.pop(1)
BASE = os.path.join(tree.ROOT, "deploy/kustomize/base")

try:
    import yaml
except ImportError:
    tree.skip("no python3-yaml")


def objects():
    if HOW == "rendered":
        if shutil.which("kubectl") is None:
            tree.skip("no kubectl")
        text = subprocess.run(["kubectl", "kustomize", BASE], stdout=subprocess.PIPE,
                              check=True).stdout.decode()
        return list(yaml.safe_load_all(text))
    found = []
    with open(os.path.join(BASE, "kustomization.yaml"), encoding="utf-8") as file:
        names = yaml.safe_load(file)["resources"]
    for name in names:
        with open(os.path.join(BASE, name), encoding="utf-8") as file:
            found += list(yaml.safe_load_all(file))
    return found


OBJECTS = {thing["kind"]: thing for thing in objects()}


class Manifests(unittest.TestCase):
    def setUp(self):
        self.spec = OBJECTS["StatefulSet"]["spec"]
        self.pod = self.spec["template"]["spec"]
        self.container = self.pod["containers"][0]

    def test_the_base_is_a_stateful_set_with_its_headless_service_and_a_policy(self):
        self.assertEqual({"StatefulSet", "Service", "NetworkPolicy"}, set(OBJECTS))
        service = OBJECTS["Service"]
        self.assertEqual("None", service["spec"]["clusterIP"])
        self.assertEqual(self.spec["serviceName"], service["metadata"]["name"])

    def test_every_selector_finds_the_pods(self):
        labels = self.spec["template"]["metadata"]["labels"].items()
        for wanted in (self.spec["selector"]["matchLabels"],
                       OBJECTS["Service"]["spec"]["selector"],
                       OBJECTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]):
            self.assertLessEqual(set(wanted.items()), set(labels))

    def test_the_pod_meets_the_restricted_standard(self):
        pod, inside = self.pod["securityContext"], self.container["securityContext"]
        self.assertTrue(pod["runAsNonRoot"])
        self.assertEqual(65532, pod["runAsUser"])
        self.assertEqual("RuntimeDefault", pod["seccompProfile"]["type"])
        self.assertFalse(inside["allowPrivilegeEscalation"])
        self.assertTrue(inside["readOnlyRootFilesystem"])
        self.assertEqual({"drop": ["ALL"]}, inside["capabilities"])
        self.assertFalse(self.pod["automountServiceAccountToken"])
        for name in ("hostNetwork", "hostPID", "hostIPC"):
            self.assertFalse(self.pod.get(name, False))

    def test_the_probes_ask_what_the_server_has(self):
        routes = yaml.safe_load(tree.read("openapi.yaml"))["paths"]
        for name in ("startupProbe", "readinessProbe"):
            self.assertIn(self.container[name]["httpGet"]["path"], routes)
        self.assertEqual(9400, self.container["livenessProbe"]["grpc"]["port"])

    def test_the_ports_are_those_of_the_arguments(self):
        ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        for name, port in ports.items():
            self.assertIn("--%s-address=0.0.0.0:%d" % (name, port), self.container["args"])
        for port in OBJECTS["Service"]["spec"]["ports"]:
            self.assertEqual(ports[port["targetPort"]], port["port"])

    def test_the_server_knows_every_argument(self):
        table = tree.read("service/settings.c")
        known = set(re.findall(r'^\s*ROW\("([a-z-]+)",', table, re.MULTILINE))
        self.assertLessEqual({argument[2:].split("=")[0] for argument in self.container["args"]},
                             known)

    def test_memory_is_limited_and_the_data_is_kept(self):
        self.assertIn("memory", self.container["resources"]["limits"])
        mounts = {mount["name"] for mount in self.container["volumeMounts"]}
        claims = {claim["metadata"]["name"] for claim in self.spec["volumeClaimTemplates"]}
        self.assertEqual(mounts, claims)


tree.main()
