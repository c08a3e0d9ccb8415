"""kvstored as a KVStore of MXNet's, beside MXNet's own. Skipped where mxnet is missing."""

import contextlib
import os
import tempfile
import warnings

import case

try:
    import mxnet
except Exception as error:  # an mxnet that does not fit its numpy fails in many ways
    case.skip(f"mxnet does not import: {error}")
import numpy  # noqa: E402

import kvstored  # noqa: E402
import kvstored.mxnet  # noqa: E402

nd = mxnet.nd
SHAPE = (3, 4)
STEPS = 20


@contextlib.contextmanager
def stores():
    """MXNet's own embedded store, ours, and ours at a server."""
    with case.Server() as server:
        made = [mxnet.kv.create("local"), kvstored.mxnet.create("local"),
                kvstored.mxnet.create("dist_sync", server.grpc)]
        yield made
        for kv in made[1:]:
            kv.kv.close()


def rows_of(dense):
    return nd.array(dense).tostype("row_sparse")


class Calls(case.Case):
    """Whatever MXNet's own store gives, ours gives."""

    def same(self, work):
        with stores() as made:
            results = [work(kv) for kv in made]
        for found in results[1:]:
            self.assertEqual(len(results[0]), len(found))
            for expected, array in zip(results[0], found):
                self.assertEqual(expected.stype, array.stype)
                self.assert_array(expected.asnumpy(), array.asnumpy())
                if expected.stype == "row_sparse":
                    self.assert_array(expected.indices.asnumpy(), array.indices.asnumpy())
        return results[0]

    def test_init_push_pull_and_pushpull(self):
        def work(kv):
            kv.init([3, 5], [nd.ones(SHAPE) * 2, nd.ones(SHAPE)])
            outs = [nd.zeros(SHAPE) for _ in range(6)]
            kv.pull(3, out=outs[0])
            kv.push(3, [nd.ones(SHAPE)] * 4)
            kv.pull([3, 5], out=[[outs[1], outs[2]], outs[3]])
            kv.pushpull(5, [nd.ones(SHAPE), nd.ones(SHAPE) * 2], out=outs[4], priority=-1)
            kv.pushpull(5, outs[5])
            return outs

        self.assert_array(4, self.same(work)[2].asnumpy())

    def test_rows(self):
        def work(kv):
            outs = [nd.sparse.zeros("row_sparse", SHAPE) for _ in range(4)] + [nd.zeros(SHAPE)]
            kv.init("w", rows_of(numpy.arange(1, 13, dtype="float32").reshape(SHAPE)))
            kv.set_optimizer(mxnet.optimizer.SGD(learning_rate=0.5))
            kv.push("w", [rows_of([[0] * 4, [0] * 4, [1] * 4])] * 2)
            kv.row_sparse_pull("w", out=outs[0], row_ids=nd.array([2, 0, 2]))
            kv.row_sparse_pull("w", out=[outs[1], outs[2]],
                               row_ids=[nd.array([1]), nd.array([0, 1])])
            kv.pull("w", out=outs[3])  # left as it is
            kv.pull("w", out=outs[4])
            return outs

        found = []
        with stores() as made:
            found = [work(made[0]), work(made[1])]
        for expected, array in zip(*found):
            self.assert_array(expected.asnumpy(), array.asnumpy())
        self.assert_array([0, 2], found[1][0].indices.asnumpy())
        self.assert_array([8, 9, 10, 11], found[1][0].asnumpy()[2])

    def test_pushpull_of_rows_and_nested_ids(self):
        def work(kv):
            outs = [nd.sparse.zeros("row_sparse", SHAPE) for _ in range(5)] + [nd.zeros(SHAPE)]
            kv.init(["v", "w"], [rows_of(numpy.ones(SHAPE)) for _ in range(2)])
            kv.set_optimizer(mxnet.optimizer.SGD(learning_rate=0.5))
            kv.pushpull("w", rows_of([[0] * 4, [0] * 4, [1] * 4]), out=outs[5])
            kv.pushpull("v", rows_of([[1] * 4, [0] * 4, [0] * 4]), out=outs[4])  # left as it is
            kv.row_sparse_pull(["v", "w"], out=[outs[:2], outs[2:4]],
                               row_ids=[[nd.array([0]), nd.array([1, 2])],
                                        [nd.array([2]), nd.array([2, 0])]])
            return outs

        with stores() as made:
            found = [work(made[0]), work(made[1])]
        for expected, array in zip(*found):
            self.assert_array(expected.asnumpy(), array.asnumpy())
        self.assert_array([[1], [1], [0.5]], found[1][5].asnumpy())
        self.assert_array([[0.5], [0], [0]], found[1][0].asnumpy())

    def test_a_pull_of_all_rows(self):
        def work(kv):
            out = nd.sparse.zeros("row_sparse", SHAPE)
            kv.init("w", rows_of(numpy.ones(SHAPE)))
            kv.pull("w", out=out, ignore_sparse=False)
            return out

        with stores() as made:
            self.assert_array(work(made[0]).asnumpy(), work(made[1]).asnumpy())

    def test_an_updater(self):
        def update(key, given, stored):
            stored += given * 2

        found = []
        for kv in (mxnet.kv.create("local"), kvstored.mxnet.create("local")):
            out = nd.zeros(SHAPE)
            kv.init("3", nd.ones(SHAPE) * 4)
            kv._set_updater(update)
            kv.push("3", nd.ones(SHAPE))
            kv.pull("3", out=out)
            found.append(out.asnumpy())
        self.assert_array(6, found)

    def test_compression(self):
        with case.Server() as server:
            kv = kvstored.mxnet.create("dist_sync", server.grpc)
            out = nd.zeros(SHAPE)
            kv.set_gradient_compression({"type": "2bit", "threshold": 0.5})
            kv.init("w", nd.zeros(SHAPE))
            kv.pushpull("w", nd.ones(SHAPE) * 0.7, out=out)
            self.assert_array(0.5, out.asnumpy())
            kv.kv.close()

    def test_the_rest(self):
        with case.Server() as server:
            kv = kvstored.mxnet.create("dist_sync", server.grpc)
            self.assertEqual(("dist_sync", 0, 1), (kv.type, kv.rank, kv.num_workers))
            self.assertTrue(kv.is_capable("optimizer"))
            with self.assertRaises(ValueError):
                kv.is_capable("flight")
            kv._barrier()
            kv._send_command_to_servers(7, "hello")
            kv.kv.close()

    def test_a_name_and_the_environment_are_enough(self):
        with case.Server() as server:
            os.environ["KVSTORED_ADDRESS"] = server.grpc
            self.addCleanup(os.environ.pop, "KVSTORED_ADDRESS", None)
            kv = mxnet.kv.create("kvstored")
            out = nd.zeros(SHAPE)
            kv.broadcast("w", nd.ones(SHAPE), out)
            self.assert_array(1, out.asnumpy())
            self.assertEqual("dist_sync", kv.type)
            kv.kv.close()


class Optimizers(case.Case):
    """MXNet's own arithmetic against the store's, of the same optimizer object."""

    # By MXNet's name: its arguments. Left out: sgld, which draws; dcasgd with momentum, which fails
    # in MXNet; the decay of nag, whose kernel in MXNet decays the momentum by the weight that it
    # has just written. nadam has one product of momenta for all keys of MXNet: here is one key.
    RULES = [
        ("sgd", {}), ("sgd", {"momentum": 0.9}), ("nag", {"momentum": 0.9}), ("signum", {}),
        ("ftml", {}), ("dcasgd", {}), ("adam", {}), ("adagrad", {}), ("adagrad", {"eps": 1e-3}),
        ("rmsprop", {}), ("rmsprop", {"centered": True}), ("rmsprop", {"clip_weights": 0.5}),
        ("adadelta", {}), ("ftrl", {}), ("adamax", {}), ("nadam", {}), ("test", {}),
        ("lbsgd", {"updates_per_epoch": 2, "warmup_epochs": 2}), ("lars", {"momentum": 0.9}),
        ("lamb", {}), ("lamb", {"lower_bound": 0.1, "upper_bound": 1.0}), ("groupadagrad", {}),
    ]
    COMMON = [{}, {"wd": 0.01, "rescale_grad": 0.5, "clip_gradient": 0.3, "learning_rate": 0.05}]

    def run_on(self, kv, optimizer):
        random = numpy.random.RandomState(1)
        out = nd.zeros(SHAPE)
        kv.set_optimizer(optimizer)
        kv.init(0, nd.array(random.uniform(-1, 1, SHAPE)))
        for _ in range(STEPS):
            kv.push(0, nd.array(random.standard_normal(SHAPE)))
        kv.pull(0, out=out)
        return out.asnumpy()

    def test_every_optimizer_moves_as_in_mxnet(self):
        for name, own in self.RULES:
            for common in self.COMMON:
                if name in ("nag", "groupadagrad"):  # the second takes none
                    common = {field: value for field, value in common.items() if field != "wd"}
                with self.subTest(name=name, own=own, common=common):
                    made = [mxnet.optimizer.create(name, **own, **common) for _ in range(2)]
                    expected = self.run_on(mxnet.kv.create("local"), made[0])
                    found = self.run_on(kvstored.mxnet.create("local"), made[1])
                    numpy.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)

    def test_schedules_become_data(self):
        for schedule in (mxnet.lr_scheduler.FactorScheduler(3, 0.5, base_lr=0.25, warmup_steps=2),
                         mxnet.lr_scheduler.MultiFactorScheduler([2, 4], 0.5, base_lr=0.25),
                         mxnet.lr_scheduler.PolyScheduler(9, base_lr=0.25, pwr=3, final_lr=0.1),
                         mxnet.lr_scheduler.CosineScheduler(9, base_lr=0.25, final_lr=0.1)):
            with self.subTest(type(schedule).__name__):
                ours = kvstored.mxnet._translate_schedule(schedule)
                for n in range(1, 12):
                    self.assertAlmostEqual(schedule(n), ours(n), 6)
        for make in (lambda: mxnet.lr_scheduler.FactorScheduler(3, 0.5),
                     lambda: mxnet.lr_scheduler.CosineScheduler(15, warmup_steps=4)):
            found = [self.run_on(kv, mxnet.optimizer.SGD(learning_rate=0.1, lr_scheduler=make()))
                     for kv in (mxnet.kv.create("local"), kvstored.mxnet.create("local"))]
            numpy.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)

    def test_multipliers_go_by_the_key(self):
        given = mxnet.optimizer.SGD(param_idx2name={0: "fc_weight", 1: "fc_bias"}, wd=0.1)
        given.set_lr_mult({0: 2.0})
        told = kvstored.mxnet._translate(given)
        self.assertEqual({"0": 2.0, "fc_weight": 2.0}, told["lr_mult"])
        self.assertEqual({"1": 0.0, "fc_bias": 0.0}, told["wd_mult"])  # as MXNet 1.9 has it


class Training(case.Case):
    def net(self, **arguments):
        mxnet.random.seed(3)
        net = mxnet.gluon.nn.Dense(2, in_units=3, **arguments)
        net.initialize(mxnet.init.Xavier(), force_reinit=True)
        return net

    def train(self, net, trainer, batch=2):
        for i in range(4):
            with mxnet.autograd.record():
                loss = (net(nd.arange(6).reshape((2, 3)) * (i + 1) / 10) ** 2).sum()
            loss.backward()
            trainer.step(batch)
        return net.weight.data().asnumpy()

    def test_a_trainer_trains_as_with_mxnets_own(self):
        found = []
        with stores() as made:
            for kv in made:
                net = self.net()
                net.bias.lr_mult = 0.5
                trainer = mxnet.gluon.Trainer(net.collect_params(), "sgd",
                                              {"learning_rate": 0.1, "momentum": 0.9}, kvstore=kv,
                                              update_on_kvstore=True)
                self.train(net, trainer)
                trainer.set_learning_rate(0.01)  # heard by the store at the next step
                self.train(net, trainer)
                found.append((net.weight.data().asnumpy(), net.bias.data().asnumpy()))
        for place in (0, 1):
            for ours in found[1:]:
                numpy.testing.assert_allclose(ours[place], found[0][place], rtol=1e-5, atol=1e-6)

    def test_another_batch_size_is_heard_by_an_embedded_store(self):
        found = []
        for kv in (mxnet.kv.create("local"), kvstored.mxnet.create("local")):
            net = self.net()
            trainer = mxnet.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1},
                                          kvstore=kv, update_on_kvstore=True)
            self.train(net, trainer, batch=2)
            found.append(self.train(net, trainer, batch=5))
        numpy.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)

    def test_a_trainer_saves_and_loads_its_states(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "states")
            kv = kvstored.mxnet.create("local")
            net = self.net()
            trainer = mxnet.gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.1},
                                          kvstore=kv)
            self.train(net, trainer)
            trainer.save_states(path)
            weights = [p.data().copy() for p in net.collect_params().values()]
            expected = self.train(net, trainer)
            other = self.net()
            for parameter, weight in zip(other.collect_params().values(), weights):
                parameter.set_data(weight)
            second = mxnet.gluon.Trainer(other.collect_params(), "adam", {"learning_rate": 0.5},
                                         kvstore=kvstored.mxnet.create("local"))
            second._init_kvstore()
            second._init_params()
            second.load_states(path)
            self.assertEqual(0.1, second.learning_rate)
            self.assert_array(expected, self.train(other, second))

    def test_gradients_and_weights_of_rows(self):
        """An embedding whose gradient, then whose weight as well, is row_sparse; updated in the
        store or by the trainer. With the decay, each row that is not its step's would show."""
        for stype, in_store in (("default", True), ("default", False), ("row_sparse", True)):
            found = []
            with self.subTest(stype=stype, in_store=in_store), stores() as made:
                for kv in made if in_store and stype == "default" else made[:2]:
                    found.append(self.train_rows(kv, stype, in_store))
                for ours in found[1:]:
                    numpy.testing.assert_allclose(ours, found[0], rtol=1e-5, atol=1e-6)

    def train_rows(self, kv, stype, in_store):
        mxnet.random.seed(3)
        weight = mxnet.gluon.Parameter("table", shape=(6, 2), stype=stype,
                                       grad_stype="row_sparse", init=mxnet.init.Uniform(1))
        weight.initialize()
        trainer = mxnet.gluon.Trainer([weight], "sgd", {"learning_rate": 0.5, "wd": 0.1,
                                                        "momentum": 0.5},
                                      kvstore=kv, update_on_kvstore=in_store)
        for rows in ([0, 2], [2, 5], [5, 5]):
            ids = nd.array(rows)
            with mxnet.autograd.record():
                table = weight.row_sparse_data(ids) if stype == "row_sparse" else weight.data()
                taken = nd.Embedding(ids, table, input_dim=6, output_dim=2, sparse_grad=True)
                loss = (taken ** 2).sum()
            loss.backward()
            trainer.step(1)
        every = nd.arange(6)
        return (weight.row_sparse_data(every) if stype == "row_sparse" else weight.data()).asnumpy()

    def test_a_module_trains_as_with_mxnets_own(self):
        found = []
        with stores() as made:
            for kv in made:
                mxnet.random.seed(5)
                numpy.random.seed(5)
                data = mxnet.sym.Variable("data")
                net = mxnet.sym.LinearRegressionOutput(
                    mxnet.sym.FullyConnected(data, num_hidden=1, name="fc"), name="lin")
                x = numpy.random.RandomState(1).standard_normal((8, 3))
                batches = mxnet.io.NDArrayIter(x, x.sum(1), batch_size=4, label_name="lin_label")
                module = mxnet.mod.Module(net, label_names=["lin_label"])
                module.bind(batches.provide_data, batches.provide_label)
                module.init_params(mxnet.init.One())
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    module.fit(batches, num_epoch=3, kvstore=kv, optimizer="sgd",
                               optimizer_params={"learning_rate": 0.1, "wd": 0.01},
                               eval_metric="mse")
                found.append({k: v.asnumpy() for k, v in module.get_params()[0].items()})
        for name, expected in found[0].items():
            for ours in found[1:]:
                numpy.testing.assert_allclose(ours[name], expected, rtol=1e-5, atol=1e-6)


case.main()
