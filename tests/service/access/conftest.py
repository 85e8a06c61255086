from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from micromodels.client import Client
from service.domain.access import Role
from tests.service.api.harness import Running


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path) -> Iterator[Running]:
    """A server with TLS and tokens; its own client is an administrator's."""
    made = Running(tmp_path_factory.mktemp("guarded"), tiny_clip / "video.mp4", auth="required", tls="on")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def member(guarded: Running) -> Iterator[Callable[[str, Role], Client]]:
    """Makes a client of a fresh user with a role in a project (by name)."""
    clients: list[Client] = []

    def make(project: str, role: Role) -> Client:
        user = f"{role.value}-{len(clients)}"
        _, bearer = guarded.store.access.issue(user)
        guarded.store.access.set_role(project.removeprefix("projects/"), user, role)
        clients.append(guarded.connect(str(bearer)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
