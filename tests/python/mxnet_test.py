"""kvstored as a KVStore of MXNet's. Skipped where mxnet is missing."""

import os

import case

try:
    import mxnet
except Exception as error:  # an mxnet that does not fit its numpy fails in many ways
    case.skip(f"mxnet does not import: {error}")
import kvstored.mxnet  # noqa: E402, F401


class MXNet(case.Case):
    def test_create_gives_a_store_that_trains(self):
        with case.Server() as server:
            os.environ["KVSTORED_ADDRESS"] = server.grpc
            kv = mxnet.kv.create("kvstored")
            self.assertEqual(("dist_sync", 0, 1), (kv.type, kv.rank, kv.num_workers))
            out = mxnet.nd.zeros((2, 3))
            kv.broadcast("w", mxnet.nd.ones((2, 3)), out)
            self.assert_array(1, out.asnumpy())
            kv.pushpull("w", [mxnet.nd.ones((2, 3)), mxnet.nd.ones((2, 3))], out)
            self.assert_array(2, out.asnumpy())
            kv.set_optimizer(mxnet.optimizer.SGD(learning_rate=0.5))
            kv.pushpull("w", mxnet.nd.ones((2, 3)), out)
            self.assert_array(1.5, out.asnumpy())
            self.assertTrue(kv.is_capable("optimizer"))
            kv.kv.close()

    def test_optimizers_of_mxnet_become_data(self):
        translate = kvstored.mxnet._translate
        found = translate(mxnet.optimizer.Adam(learning_rate=0.25, beta1=0.5, wd=0.125)).to_dict()
        self.assertEqual(("adam", 0.25, 0.5, 0.125),
                         tuple(found[name] for name in ("name", "learning_rate", "beta1", "wd")))
        for schedule in (mxnet.lr_scheduler.FactorScheduler(3, 0.5, base_lr=0.25, warmup_steps=2),
                         mxnet.lr_scheduler.MultiFactorScheduler([2, 4], 0.5, base_lr=0.25),
                         mxnet.lr_scheduler.PolyScheduler(9, base_lr=0.25, pwr=3, final_lr=0.1),
                         mxnet.lr_scheduler.CosineScheduler(9, base_lr=0.25, final_lr=0.1)):
            given = mxnet.optimizer.SGD(lr_scheduler=schedule)
            ours = kvstored.mxnet._translate(given).lr_scheduler
            for n in range(1, 12):
                self.assertAlmostEqual(schedule(n), ours(n), 6, type(schedule).__name__)
            with kvstored.create("local") as kv:
                kv.set_optimizer(kvstored.mxnet._translate(given))

    def test_a_trainer_takes_it(self):
        os.environ.pop("KVSTORED_ADDRESS", None)
        net = mxnet.gluon.nn.Dense(1)
        net.initialize(mxnet.init.One())
        trainer = mxnet.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.5},
                                      kvstore=mxnet.kv.create("kvstored"))
        x = mxnet.nd.ones((1, 3))
        for _ in range(2):
            with mxnet.autograd.record():
                loss = net(x).sum()
            loss.backward()
            trainer.step(1)
        self.assert_array(0, net.weight.data().asnumpy())


case.main()
