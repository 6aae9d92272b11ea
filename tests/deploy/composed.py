"""docker-compose.yml as Compose itself reads it."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMPOSE = Path(sys.executable).with_name("docker-compose")
"""The Compose CLI of the development dependencies: it reads and checks files without Docker."""
ENV = "COMPOSE_PROFILES=full\nFRESHET_SECRETS=./deploy/secrets\n"
"""What deploy/make-secrets writes."""


def compose(*arguments: str, env: str = ENV) -> subprocess.CompletedProcess[str]:
    """Run Compose on the file with this text as its .env, and nothing of our own environment."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    with tempfile.NamedTemporaryFile("w", suffix=".env") as file:
        file.write(env)
        file.flush()
        return subprocess.run(
            [str(COMPOSE), "--env-file", file.name, *arguments],
            cwd=ROOT, env=kept, capture_output=True, text=True, check=False,
        )  # fmt: skip


@cache
def services(*profiles: str) -> dict[str, dict[str, Any]]:
    """What these profiles start (none: those of the .env file), as Compose sees it."""
    chosen = [argument for profile in profiles for argument in ("--profile", profile)]
    done = compose(*chosen, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return found


def every_service() -> dict[str, dict[str, Any]]:
    """All of them, whatever starts them."""
    return services("full", "cuda", "embedded", "feed", "tools")
