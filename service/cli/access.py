"""``micromodels token``, ``role`` and ``certificate``: manage access, with write access to the data folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from micromodels.errors import InvalidInput
from service.cli.exit_codes import exit_codes
from service.domain.access import LOCAL_OWNER, Role

if TYPE_CHECKING:
    from service.domain.access import AccessToken
    from service.store import Store

__all__ = ["DataOption", "certificate", "opened", "role", "token"]

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Data folder of the server; default: MICROMODELS_DATA_DIR or ./micromodels-data."
    ),
]
DaysOption = Annotated[float, typer.Option(help="Days for which the token is valid, up to 3650.")]

_HELP = {"help_option_names": ["-h", "--help"]}
token = typer.Typer(no_args_is_help=True, context_settings=_HELP, help="Create and revoke access tokens.")
role = typer.Typer(no_args_is_help=True, context_settings=_HELP, help="Set the roles of users in projects.")
certificate = typer.Typer(no_args_is_help=True, context_settings=_HELP, help="Create client certificates (mutual TLS).")


@contextmanager
def opened(data: Path | None, command: str, *, make: bool = False) -> Iterator[Store]:
    """The store of a data folder that a server may be using. Writes are audited as ``cli/COMMAND``.

    Raises:
        InvalidInput: the data folder does not exist, unless ``make``.
    """
    from service.access.calls import Call, calling
    from service.settings import Settings
    from service.store import Store

    settings = Settings.from_environment(data_dir=data)
    if not make and not settings.data_dir.is_dir():
        raise InvalidInput("--data", str(settings.data_dir), "an existing data folder of a server")
    with Store.open(settings, exclusive=False) as store, calling(Call(LOCAL_OWNER, f"cli/{command}")):
        yield store


def _console() -> Console:
    return Console(stderr=True, highlight=False, emoji=False)


@token.command("create")
def create_token(
    user: Annotated[str, typer.Argument(metavar="NAME", help="Name of the user: a-z, 0-9 and -. Created if new.")],
    project: Annotated[str, typer.Option(metavar="ID", help="Also give the user a role in this project.")] = "",
    as_role: Annotated[Role | None, typer.Option("--role", help="Role in that project.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Make the user a server administrator.")] = False,
    days: DaysOption = 90.0,
    data: DataOption = None,
) -> None:
    """Create a token and print it on standard output. It is shown only once."""
    console = _console()
    with exit_codes(console), opened(data, "token.create", make=True) as store:
        if bool(project) != (as_role is not None):
            raise InvalidInput("--role", as_role, "a role together with --project, or neither of them")
        if project:
            store.projects.get(project)
        made, bearer = store.access.issue(user, days=days, is_admin=admin)
        if as_role is not None:
            store.access.set_role(project, user, as_role)
        print(bearer, flush=True)
        console.print(
            f"[dim]·[/] token {made.token_id} of {made.user}, valid until {made.expires_at:%Y-%m-%d %H:%M} UTC"
        )


@token.command("list")
def list_tokens(data: DataOption = None) -> None:
    """List all tokens with user and expiry, without their secrets."""
    with exit_codes(_console()), opened(data, "token.list") as store:
        table = Table("token", "user", "server admin", "created", "expires", "state", box=None, pad_edge=False)
        after = ""
        while True:
            page = store.access.list(after=after)
            for found in page.items:
                made, ends = (f"{moment:%Y-%m-%d %H:%M}" for moment in (found.created_at, found.expires_at))
                admin = "yes" if found.is_admin else ""
                table.add_row(found.token_id, found.user, admin, made, ends, _state(found, store))
            after = page.next_after
            if not after:
                break
        Console(soft_wrap=True, highlight=False).print(table)


def _state(found: AccessToken, store: Store) -> str:
    if found.revoked_at is not None:
        return "revoked"
    return "expired" if found.expires_at <= store.clock.now() else "valid"


@token.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="TOKEN_ID", help="As `token list` shows it.")],
    data: DataOption = None,
) -> None:
    """Revoke a token; a running server refuses it within two seconds."""
    console = _console()
    with exit_codes(console), opened(data, "token.revoke") as store:
        ended = store.access.revoke(token_id)
        console.print(f"[dim]·[/] token {ended.token_id} of {ended.user} is revoked")


@token.command("rotate")
def rotate_token(
    token_id: Annotated[str, typer.Argument(metavar="TOKEN_ID", help="As `token list` shows it.")],
    overlap_hours: Annotated[float, typer.Option(help="Hours for which the old token stays valid, up to 720.")] = 0.0,
    days: DaysOption = 90.0,
    data: DataOption = None,
) -> None:
    """Create a new token for the same user, print it, and expire the old one."""
    console = _console()
    with exit_codes(console), opened(data, "token.rotate") as store:
        made, bearer = store.access.rotate(token_id, days=days, overlap_hours=overlap_hours)
        print(bearer, flush=True)
        console.print(f"[dim]·[/] token {made.token_id} of {made.user} replaces {token_id}")


ProjectArgument = Annotated[str, typer.Argument(metavar="PROJECT", help="Id of the project.")]
UserArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a user who already has a token.")]


@role.command("set")
def set_role(
    project: ProjectArgument,
    user: UserArgument,
    to: Annotated[Role, typer.Argument(metavar="ROLE", help="viewer, annotator, reviewer, service or admin.")],
    data: DataOption = None,
) -> None:
    """Add a user to a project, or change the user's role."""
    console = _console()
    with exit_codes(console), opened(data, "role.set") as store:
        store.access.set_role(project, user, to)
        console.print(f"[dim]·[/] {user} now has the role {to.value} in {project}")


@role.command("remove")
def remove_role(project: ProjectArgument, user: UserArgument, data: DataOption = None) -> None:
    """Remove a user from a project; the user's open streams end within two seconds."""
    console = _console()
    with exit_codes(console), opened(data, "role.remove") as store:
        store.access.remove_role(project, user)
        console.print(f"[dim]·[/] {user} was removed from {project}")


@role.command("list")
def list_roles(project: ProjectArgument, data: DataOption = None) -> None:
    """List the members of a project with their roles, one per line."""
    with exit_codes(_console()), opened(data, "role.list") as store:
        after = ""
        while True:
            page = store.access.members(project, after=after)
            for member in page.items:
                print(f"{member.user}\t{member.role.value}")
            after = page.next_after
            if not after:
                return


@certificate.command("create")
def create_certificate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client: a-z, 0-9 and -.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for NAME.pem and NAME.key.")] = Path(),
    data: DataOption = None,
) -> None:
    """Create a client certificate from the server's own authority, for a server with MICROMODELS_TLS_CLIENT_CA=own."""
    console = _console()
    with exit_codes(console):
        from service.access.certificates import issue_client
        from service.settings import Settings
        from service.store.database import check_id

        check_id("NAME", name)
        made, key = issue_client(Settings.from_environment(data_dir=data).data_dir / "tls", name, out)
        console.print(f"[dim]·[/] {made} and {key}; give the key to the client only")
