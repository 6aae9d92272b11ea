"""The full stack of docker-compose.yml as processes of this machine: the settings, the secrets, the
configuration of Redis, the balancer and Prometheus are those of deploy/; addresses are not."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.client import Client
from service.commands.processes import Child, free_port
from tests.stack.balancers import Balancer
from tests.stack.prometheuses import DEPLOY, Prometheus
from tests.stack.redises import RedisServer

SMALL = """
[model]
dim = 32
qk_width = 16
v_width = 16
window = 32
priors = [5.0, 20.0, 300.0]

[trainer]
block_ms = 200
join_seconds = 2.0
dense_seconds = 5
"""
"""What two cores learn beside everything else."""


@dataclass
class Deployed:
    """The running stack. `servers` may be killed and entered again."""

    folder: Path
    trainer: Child
    histories: Child
    servers: list[Child]
    balancer: Balancer
    prometheus: Prometheus
    key: str

    def client(self) -> Client:
        """A client with a key, through the balancer."""
        return Client(self.balancer.url, 10.0, self.key, patience_seconds=0.0)

    def ports(self) -> dict[str, int]:
        """Where each role serves its metrics."""
        servers = {f"server-{n}": server.port for n, server in enumerate(self.servers, 1)}
        return {"trainer": self.trainer.port, "histories": self.histories.port, **servers}


@contextlib.contextmanager
def deployed(folder: Path, kafka_servers: str, prefix: str) -> Iterator[Deployed]:
    """Start everything in the order of docker-compose.yml; stop it in the other one."""
    secrets, keys = _secrets(folder), folder / "keys"
    data, logs = folder / "data", folder / "logs"
    data.mkdir()
    redis = _redis(folder / "redis", (secrets / "redis_users").read_text().splitlines())
    key = _first_key(keys)
    settings = _settings(folder, kafka_servers, prefix, redis.url, keys)
    environment = {
        "FRESHET_LOG_SALT_FILE": str(secrets / "log_salt"),
        "FRESHET_REDIS_PASSWORD_FILE": str(secrets / "redis_password"),
        "FRESHET_SIGNING_KEY_FILE": str(secrets / "signing_key"),
    }
    common = ["--data", str(data), "--settings", str(settings)]

    def role(module: str, name: str) -> Child:
        port = free_port()
        option = "--port" if module == "serving" else "--metrics-port"
        arguments = [*common, option, str(port)]
        return Child(module, arguments, logs / f"{name}.log", port)

    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(environment))
        stack.enter_context(redis)
        trainer = stack.enter_context(role("trainer", "trainer"))
        histories = stack.enter_context(role("service.histories", "histories"))
        servers = [stack.enter_context(role("serving", f"server-{n}")) for n in (1, 2)]
        balancer = stack.enter_context(Balancer(folder / "balancer", [s.port for s in servers]))
        addresses = {
            "trainer:9100": f"127.0.0.1:{trainer.port}",
            "histories:9100": f"127.0.0.1:{histories.port}",
            "server-1:8080": f"127.0.0.1:{servers[0].port}",
            "server-2:8080": f"127.0.0.1:{servers[1].port}",
            "balancer:8405": f"127.0.0.1:{balancer.metrics_port}",
        }
        prometheus = stack.enter_context(Prometheus(folder / "prometheus", addresses))
        yield Deployed(folder, trainer, histories, servers, balancer, prometheus, key)


@contextlib.contextmanager
def feeding(stack: Deployed, actions_per_second: int = 60) -> Iterator[Child]:
    """`freshet feed` through the balancer."""
    arguments = ["feed", "--url", stack.balancer.url, "--lists-per-second", "5"]
    arguments += ["--actions-per-second", str(actions_per_second)]
    with (
        _environment({"FRESHET_API_KEY": stack.key}),
        Child("service", arguments, stack.folder / "logs" / "feed.log", 0) as feed,
    ):
        yield feed


def _secrets(folder: Path) -> Path:
    (folder / "deploy").mkdir(parents=True)
    shutil.copy(DEPLOY / "make-secrets", folder / "deploy")
    subprocess.run([folder / "deploy" / "make-secrets"], check=True, capture_output=True)
    return folder / "deploy" / "secrets"


def _redis(folder: Path, acl: list[str]) -> RedisServer:
    """With our redis.conf, less the lines that say where it is and where its files are."""
    lines = (DEPLOY / "redis" / "redis.conf").read_text().splitlines()
    kept = [line for line in lines if not re.match("(bind|port|dir|aclfile) ", line)]
    assert len(lines) - len(kept) == 4
    folder.mkdir()
    (folder / "redis.conf").write_text("\n".join(kept) + "\n")
    return RedisServer(folder, "--include", str(folder / "redis.conf"), acl=acl)


def _first_key(keys: Path) -> str:
    """As the service `first-key` makes it."""
    command = [sys.executable, "-m", "service", "keys", "new", "--file", str(keys / "keys.toml")]
    command += ["--name", "feed", "--scope", "read", "--scope", "write"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _settings(folder: Path, kafka: str, prefix: str, redis: str, keys: Path) -> Path:
    text = (DEPLOY / "settings" / "full.toml").read_text()
    for known, here in (
        ('"kafka:9092"', f'"{kafka}"\nprefix = "{prefix}"'),
        ('"redis://redis:6379/0"', f'"{redis}"'),
        ('"/keys/keys.toml"', f'"{keys / "keys.toml"}"'),
    ):
        assert known in text
        text = text.replace(known, here)
    path = folder / "full.toml"
    path.write_text(text + SMALL)
    return path


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """What processes started inside are given beside the environment."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
