"""docker-compose.yml: every profile is valid, and nothing in it is more open than it must be."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from typer.main import get_command

from service.__main__ import app
from service.errors import SettingsError
from service.redis.settings import redis_of
from service.settings import SECTIONS, Settings
from service.streams.kafka.settings import kafka_settings
from serving.settings import ServingSettings
from tests.deploy.composed import ROOT, compose, every_service, services
from trainer.settings import TrainerSettings

OURS = {
    "full": {"trainer", "histories", "server-1", "server-2", "balancer", "kafka", "redis"},
    "cuda": {"trainer-cuda", "histories", "server-1", "server-2", "balancer", "kafka", "redis"},
    "embedded": {"trainer-embedded", "server"},
}
WATCHING = {
    "full": {"prometheus", "grafana"},
    "cuda": {"prometheus", "grafana"},
    "embedded": {"prometheus-embedded", "grafana"},
}
ONE_SHOT = {"first-key", "keys"}
EVERY = sorted(every_service())


def of(name: str) -> dict[str, Any]:
    return every_service()[name]


@pytest.mark.parametrize("profile", OURS)
@pytest.mark.parametrize("fed", [False, True])
def test_a_profile_starts_its_services(profile: str, fed: bool) -> None:
    chosen = (profile, "feed") if fed else (profile,)
    assert compose(*[f"--profile={name}" for name in chosen], "config", "-q").returncode == 0
    more = {"first-key"} | ({"feed"} if fed else set())
    assert set(services(*chosen)) == OURS[profile] | WATCHING[profile] | more


def test_without_a_profile_the_full_stack_on_the_cpu_starts() -> None:
    assert set(services()) == set(services("full"))


def test_without_secrets_nothing_starts_and_the_remedy_is_named() -> None:
    done = compose("config", "-q", env="COMPOSE_PROFILES=full\n")
    assert done.returncode != 0
    assert "run deploy/make-secrets first" in done.stderr


@pytest.mark.parametrize("name", EVERY)
def test_a_container_has_no_more_power_than_it_needs(name: str) -> None:
    service = of(name)
    assert service["user"].split(":")[0] not in ("0", "root")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) is (name != "kafka")
    assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & set(service)


@pytest.mark.parametrize("name", EVERY)
def test_a_container_has_limits(name: str) -> None:
    limits = of(name)["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert of(name)["logging"]["options"] == {"max-size": "10m", "max-file": "5"}


@pytest.mark.parametrize("name", sorted(set(EVERY) - ONE_SHOT - {"feed"}))
def test_a_container_that_stays_has_a_health_check_and_is_started_again(name: str) -> None:
    assert of(name)["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert of(name)["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", EVERY)
def test_an_image_is_ours_or_pinned_by_its_version(name: str) -> None:
    image = of(name)["image"]
    assert re.fullmatch(r"freshet:(cpu|cuda)|[a-z/]+:v?\d+\.\d+\.\d+(-[a-z]+)?", image)
    assert ("build" in of(name)) == image.startswith("freshet:")


def test_only_this_machine_reaches_ports() -> None:
    ports = [
        (port["host_ip"], port["published"]) for name in EVERY for port in of(name).get("ports", [])
    ]
    assert {host for host, _ in ports} == {"127.0.0.1"}
    assert {port for _, port in ports} == {"8080", "9090", "3000"}


def test_what_has_no_users_to_serve_is_in_the_closed_network_alone() -> None:
    closed = {name for name in EVERY if set(of(name).get("networks", {})) == {"back"}}
    assert closed == {
        "kafka", "redis", "histories", "trainer", "trainer-cuda", "trainer-embedded",
    }  # fmt: skip
    networks = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["networks"]
    assert networks["back"] == {"internal": True}


@pytest.mark.parametrize("name", EVERY)
def test_no_secret_stands_in_the_environment(name: str) -> None:
    for variable, value in of(name).get("environment", {}).items():
        if re.search("PASSWORD|SECRET|SALT|KEY|TOKEN", variable):
            assert variable.endswith("_FILE"), variable
            assert value.startswith(("/run/secrets/", "/keys/")), value


@pytest.mark.parametrize("name", EVERY)
def test_what_is_mounted_from_the_checkout_is_there_and_cannot_be_changed(name: str) -> None:
    for mount in of(name).get("volumes", []):
        if mount["type"] == "bind":
            assert mount["read_only"]
            assert Path(mount["source"]).exists()
            assert Path(mount["source"]).is_relative_to(ROOT / "deploy")


@pytest.mark.parametrize("name", [name for name in EVERY if of(name)["image"][:8] == "freshet:"])
def test_a_role_is_started_with_options_that_it_has(name: str) -> None:
    command = of(name)["command"]
    if command[0] != "freshet":
        assert name in ONE_SHOT
        return
    group = get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    chosen = group.commands[command[1]]
    parsed = chosen.make_context(command[1], list(command[2:]))
    assert not parsed.args


@pytest.mark.parametrize("file", ["full.toml", "cuda.toml", "embedded.toml"])
def test_the_settings_are_settings(file: str) -> None:
    settings = Settings.load(ROOT / "deploy" / "settings" / file)
    assert settings.section("serving", ServingSettings).keys == "/keys/keys.toml"
    settings.section("trainer", TrainerSettings)
    assert set(settings.to_dict()) <= set(SECTIONS)
    assert (kafka_settings(settings) is None) == (redis_of(settings) is None)
    assert (kafka_settings(settings) is None) == (file == "embedded.toml")


def test_the_trainer_on_a_gpu_differs_in_its_own_section_alone() -> None:
    full, cuda = (
        Settings.load(ROOT / "deploy" / "settings" / name).to_dict()
        for name in ("full.toml", "cuda.toml")
    )
    assert cuda.pop("trainer")["device"] == "cuda"
    assert cuda == full
    [device] = of("trainer-cuda")["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert of("trainer-cuda")["build"]["args"]["TORCH"] == "cuda"
    assert of("trainer")["build"]["args"]["TORCH"] == "cpu"


@pytest.mark.parametrize("profile", OURS)
def test_prometheus_asks_what_there_is(profile: str) -> None:
    started = services(profile)
    mounted = next(
        mount["source"]
        for name in started if name.startswith("prometheus")
        for mount in started[name]["volumes"] if "/targets/" in mount["target"]
    )  # fmt: skip
    known = set(started) | {
        alias
        for service in started.values()
        for network in (service.get("networks") or {}).values()
        for alias in (network or {}).get("aliases", [])
    }
    groups = yaml.safe_load(Path(mounted).read_text())
    names = {target.split(":")[0] for group in groups for target in group["targets"]}
    assert names <= known
    assert names == {alias_of(name) for name in OURS[profile]} - {"kafka", "redis"}


def alias_of(name: str) -> str:
    return "trainer" if name.startswith("trainer") else name


def test_an_unknown_setting_in_them_would_be_noticed(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "settings" / "full.toml").read_text()
    (tmp_path / "bad.toml").write_text(text.replace("drain_seconds", "drian_seconds"))
    with pytest.raises(SettingsError, match="did you mean drain_seconds"):
        Settings.load(tmp_path / "bad.toml").section("serving", ServingSettings)
