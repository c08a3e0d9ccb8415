"""Push and pull in ten lines of Python: in this process, or at a server.

    push_pull.py                        the embedded store
    push_pull.py 127.0.0.1:9400         the store "default" of a running kvstored
"""

import sys

import numpy

import kvstored

address = sys.argv[1] if len(sys.argv) > 1 else None
with kvstored.create("dist_sync" if address else "local", address) as kv:
    weights = numpy.ones((2, 3), "float32")
    gradient = numpy.ones((2, 3), "float32")
    kv.init("w", weights)
    kv.set_optimizer(kvstored.optimizer.SGD(learning_rate=0.5))
    kv.push("w", gradient)
    kv.pull("w", out=weights)
    print(f"{kv.type}: w is now {weights[1, 2]:g} everywhere")
