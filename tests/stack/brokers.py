"""A real Apache Kafka (one KRaft node) on loopback, from the artifacts of Maven Central.

    with Broker(tmp_path / "kafka") as broker:
        KafkaProducer(bootstrap_servers=broker.servers)
        broker.kill()   # kill -9
        broker.start()  # the same data, the same port

The jars are fetched once by Maven into `~/.cache/freshet/kafka` (`FRESHET_KAFKA_CACHE` names
another folder). Whatever is missing raises BrokerError, one line with the remedy.
"""

import fcntl
import gc
import os
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

VERSION = "4.1.0"
JVM = ("-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # a quick start on two cores
READY_SECONDS = 60.0
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>freshet</groupId><artifactId>kafka-of-the-tests</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""
PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": (
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT,SSL:SSL,"
        "SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL"
    ),
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "broker.session.timeout.ms": "2000",  # how soon the node forgets itself after kill -9
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    "log.retention.check.interval.ms": "1000",
    "log.cleaner.backoff.ms": "500",
    "log.segment.delete.delay.ms": "1000",
}
LOG4J = """Configuration:
  Appenders:
    Console:
      name: out
      PatternLayout:
        pattern: "%d %p %m (%c)%n"
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        - ref: out
"""


class BrokerError(RuntimeError):
    """Why there is no broker, and what to do."""


class Broker:
    """A broker of its own on free ports; `folder` holds its data, its settings and its log.

    `listeners` are further ones: SSL, SASL_SSL, SASL_PLAINTEXT or PROXIED; each gets a free port,
    see `address`. What stands in `advertised` before the start tells a listener's clients to come
    by another port. `properties` are further lines of its settings, `users` name and password of
    those who come by SCRAM.
    """

    def __init__(
        self,
        folder: Path,
        properties: Mapping[str, str] | None = None,
        listeners: tuple[str, ...] = (),
        users: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.advertised: dict[str, int] = {}
        self._users = dict(users or {})
        self._ports = {name: free_port() for name in ("PLAINTEXT", "CONTROLLER", *listeners)}
        self._more = dict(properties or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def servers(self) -> str:
        """The address for clients without TLS, as bootstrap servers."""
        return self.address("PLAINTEXT")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        """What the broker says."""
        return self.folder / "broker.log"

    def address(self, listener: str) -> str:
        """The address of one listener."""
        return f"127.0.0.1:{self._ports[listener]}"

    def __enter__(self) -> "Broker":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it on the data that is there, and return when it answers."""
        if not (self.folder / "server.properties").exists():
            self._format()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self.folder / "server.properties")),
                stdout=log,
                stderr=log,
            )
        self._await()

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it where it is: connections stay open and nothing is answered."""
        self._signal(19)

    def go_on(self) -> None:
        """The end of a pause."""
        self._signal(18)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _format(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "log4j2.yaml").write_text(LOG4J)
        lines = {
            **PROPERTIES,
            "log.dirs": str(self.folder / "data"),
            "controller.quorum.voters": f"1@{self.address('CONTROLLER')}",
            "listeners": ",".join(f"{name}://{self.address(name)}" for name in self._ports),
            "advertised.listeners": ",".join(
                f"{name}://127.0.0.1:{self.advertised.get(name, port)}"
                for name, port in self._ports.items()
                if name != "CONTROLLER"
            ),
            **self._more,
        }
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        scram = [
            f"--add-scram={mechanism}=[name={name},password={password}]"
            for name, password in self._users.items()
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        ]
        done = subprocess.run(
            self._java(
                "kafka.tools.StorageTool", "format", "-t", "ZnJlc2hldC1zdGFjay10ZQ",
                "-c", str(properties), *scram,
            ),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            properties.unlink()
            raise BrokerError(f"Kafka's data folder was not made: {done.stdout} {done.stderr}")

    def _java(self, main: str, *arguments: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.yaml'}"
        return [_program("java"), *JVM, log4j, "-cp", f"{jars()}/*", main, *arguments]

    def _await(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_SECONDS
        while not _answers(self.servers):
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
                self.kill()
                raise BrokerError(f"Kafka did not start; see {self.log}: {' '.join(last)}")
            time.sleep(0.1)
        # A client that could not connect leaves sockets behind, which would be warned about later,
        # in whatever test then runs.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def jars() -> Path:
    """The folder with Kafka's jars; fetched by Maven if they are not there yet."""
    default = Path.home() / ".cache" / "freshet" / "kafka"
    cache = Path(os.environ.get("FRESHET_KAFKA_CACHE", default)) / VERSION
    if (cache / "libs").is_dir():
        return cache / "libs"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cache / "libs").is_dir():
            _fetch(cache)
    return cache / "libs"


def _fetch(cache: Path) -> None:
    """Steps: into a folder of another name, then the rename that makes it count."""
    (cache / "pom.xml").write_text(POM)
    fetched = cache / "fetching"
    shutil.rmtree(fetched, ignore_errors=True)
    done = subprocess.run(
        [_program("mvn"), "-q", "-B", "-f", str(cache / "pom.xml"),
         "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={fetched}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode or not list(fetched.glob("kafka_*.jar")):
        said = (done.stdout + done.stderr).strip().splitlines()
        raise BrokerError(
            f"Apache Kafka {VERSION} could not be fetched by Maven ({said[:1]}); mend the network "
            "or name a broker in FRESHET_TEST_KAFKA=host:port"
        )
    fetched.rename(cache / "libs")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        package = {"java": "openjdk-17-jre-headless", "mvn": "maven"}[name]
        raise BrokerError(
            f"the stack's tests start Apache Kafka and need {name} (Debian, Ubuntu: apt install "
            f"{package}), or a broker named in FRESHET_TEST_KAFKA=host:port"
        )
    return found


def _answers(servers: str) -> bool:
    """Whether the broker answers a metadata request and knows itself as a broker."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    host, port = servers.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            pass
        admin = KafkaAdminClient(bootstrap_servers=servers, bootstrap_timeout_ms=2000)
    except (OSError, KafkaError):
        return False
    try:
        brokers = admin.describe_cluster()["brokers"]
        return bool(brokers) and not any(broker["is_fenced"] for broker in brokers)
    except (KafkaError, OSError):
        return False
    finally:
        admin.close()
