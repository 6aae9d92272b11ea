"""The stream on Apache Kafka: `KafkaStream`, and its settings.

From the outside in: `stream.py` is the Stream; `producer.py` appends, `fetcher.py` reads ahead in
a thread of its own into `buffers.py`, `records.py` decodes what a broker sends; `topics.py` knows
which topic is meant; `cluster.py` is the only file that asks brokers anything, `connecting.py` how.
Only `settings.py` can be imported without kafka-python.
"""
