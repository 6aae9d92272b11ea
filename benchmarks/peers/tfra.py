"""TensorFlow Recommenders Addons: its cuckoo hash table on CPU, which its documentation trains on.

- `lookup`: batches under Zipf's law by their distinct keys (a third of them), then gathered, as
  its `embedding_lookup_unique` does; uniform ones directly: the faster way each time
- `update`: gradients of equal keys summed, then distinct keys looked up, moved (SGD), written
- `step`: lookup by distinct keys, gathered, and its own optimizer (Adagrad), in one graph
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers import checks, rounds
from benchmarks.peers.rounds import Calls
from benchmarks.peers.workload import Batch, Workload, gradients, vectors_of

RATE = 0.02
ADAGRAD_FIRST = 0.1
"""Where Keras starts the sum of squares."""


class Cuckoo:
    """The table, and its operations as TensorFlow functions."""

    def __init__(self, options: argparse.Namespace, workload: Workload) -> None:
        os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        import tensorflow as tf
        import tensorflow_recommenders_addons as tfra
        from tensorflow_recommenders_addons import dynamic_embedding as de

        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self._tf, self._de, self._workload, self._dim = tf, de, workload, options.dim
        self._table = de.get_variable(
            "rows", key_dtype=tf.int64, value_dtype=tf.float32, dim=options.dim,
            initializer=0.0, init_size=2 * workload.size, devices=["/CPU:0"],
            kv_creator=de.CuckooHashTableCreator(),
        )  # fmt: skip
        self._load()
        self._shadow = de.shadow_ops.ShadowVariable(self._table, name="shadow")
        adagrad = tf.keras.optimizers.legacy.Adagrad(RATE, ADAGRAD_FIRST)
        self._optimizer = de.DynamicEmbeddingOptimizer(adagrad)
        self._grads = tf.constant(gradients(workload.batch, options.dim))
        self._update, self._step = tf.function(self._sgd), tf.function(self._adagrad)
        self.about = {"tfra": tfra.__version__, "tensorflow": tf.__version__}

    def check(self) -> None:
        def find(batch: Batch) -> Any:
            return self._table.lookup(batch.keys_N)

        def of(call: Callable[[Any], Any]) -> Callable[[Batch], Any]:
            return lambda batch: call(self._tf.constant(batch.keys_N))

        for lookup in (find, of(self._by_distinct)):
            checks.lookups(lookup, self._workload, self._dim)
        checks.sgd(find, of(self._update), self._workload, RATE)
        checks.adagrad(find, of(self._step), self._workload, RATE, ADAGRAD_FIRST)

    def calls(self, measure: str, batches: list[Batch]) -> Calls:
        known = all((batch.places_N >= 0).all() for batch in batches)
        lookup = self._by_distinct if known else self._table.lookup
        call = {"lookup": lookup, "update": self._update, "step": self._step}[measure]
        tensors = [self._tf.constant(batch.keys_N) for batch in batches]
        return [partial(call, keys) for keys in tensors]

    def _load(self) -> None:
        places = np.arange(self._workload.size)
        for keys in self._workload.preloading():
            now, places = places[: len(keys)], places[len(keys) :]
            vectors = self._tf.constant(vectors_of(now, self._dim))
            self._table.upsert(self._tf.constant(keys), vectors)

    def _by_distinct(self, keys: Any) -> Any:
        distinct, place = self._tf.unique(keys)
        return self._tf.gather(self._table.lookup(distinct), place)

    def _sgd(self, keys: Any) -> None:
        distinct, place = self._tf.unique(keys)
        size = self._tf.size(distinct)
        sums = self._tf.math.unsorted_segment_sum(self._grads, place, size)
        self._table.upsert(distinct, self._table.lookup(distinct) - RATE * sums)

    def _adagrad(self, keys: Any) -> Any:
        distinct, place = self._tf.unique(keys)
        with self._tf.GradientTape() as tape:
            rows = self._de.shadow_ops.embedding_lookup(self._shadow, distinct)
            vectors = self._tf.gather(rows, place)
        grads = tape.gradient(vectors, [self._shadow], output_gradients=self._grads)
        self._optimizer.apply_gradients(zip(grads, [self._shadow], strict=True))
        return vectors


if __name__ == "__main__":
    rounds.serve(Cuckoo)
