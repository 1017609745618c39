"""When the programs change their user and enter a user namespace.

    run                          "user-namespace"                      "inner-user"
    command, ordinary user       enter a new user namespace            -
    command, --runas             become that user, enter a new one     -
    command, root                enter a new one, which maps nobody    become nobody there
    command, --userns            become the user if there is one,      -
                                 join the user namespace
    command, --netns-only        become the user of --runas            root: become nobody
    attached, ordinary user      join the target's user namespace      -
    attached, root or --runas    become the user, with capabilities    root: join the user namespace
                                 kept; not root: join it now
    passt, ordinary user         become the user if there is one,      -
                                 enter a new one of its own
    passt, root                  become the user, with capabilities    enter a new one of its own
                                 kept

"The user" is that of --runas, or nobody if root of the host started us without it. The columns are stages of
`process.stages`: when the child has made the tap, "inner-user" comes.

To join a user namespace takes capabilities over it, and users of the host have no numbers in there, so the
main process becomes another user before it joins, and keeps its capabilities until they are all dropped. The
helper that makes the tap of an existing namespace keeps root's capabilities, which let it enter any network
namespace and open /dev/net/tun; so a main process that was root joins the user namespace after the tap.
The command belongs to the user of --runas; root that becomes nobody keeps the command as its own.
"""

from __future__ import annotations

import os

from passt import log
from passt.namespace.create import enter_new_user_namespace, enter_private_user_namespace
from passt.namespace.existing import TargetNamespaces
from passt.process.identity import NOBODY_ID, Identity

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.settings import NamespaceSettings


def enter_for_command(asked: NamespaceSettings, user: Identity | None, *, is_asked_for: bool
                      ) -> Callable[[], None] | None:
    """Enter the user namespace of a command; return what to do when the command's child has made the tap.

    *user* is the one to become, and *is_asked_for* says that --runas names it. Raises HostError.
    """
    if user is not None and (is_asked_for or asked.userns is not None):
        user.assume()
    if asked.userns is not None:
        target = TargetNamespaces.of_paths(None, asked.userns)
        target.join_user_namespace()
        target.close()
        return None
    nobody = None if is_asked_for else user
    if asked.netns_only:
        return nobody.assume if nobody is not None else None
    enter_new_user_namespace(nobody)
    return Identity(NOBODY_ID, NOBODY_ID).assume if nobody is not None else None


def enter_for_target(target: TargetNamespaces, user: Identity | None, *,
                     is_asked_for: bool) -> Callable[[], None] | None:
    """Enter the user namespace of *target*; return what to do when the helper has made the tap.

    *user* and *is_asked_for* are as for a command. Raises HostError.
    """
    return _change_user(user, target.join_user_namespace, is_asked_for=is_asked_for)


def enter_for_machine(user: Identity | None, *, is_asked_for: bool) -> Callable[[], None] | None:
    """Become *user* if there is one; enter a user namespace of our own, or return what enters it later.

    *user* and *is_asked_for* are as for a command. Raises HostError.
    """
    return _change_user(user, _enter_private, is_asked_for=is_asked_for)


def _change_user(user: Identity | None, enter: Callable[[], None], *,
                 is_asked_for: bool) -> Callable[[], None] | None:
    """Become *user* if there is one, and *enter* the user namespace; return *enter* if root does so later."""
    was_root = os.geteuid() == 0
    if user is not None:
        if not is_asked_for:
            log.info(f"started as root: goes on as user {user.uid} (nobody); --runas names another one")
        user.assume()
        if was_root:
            return enter
    enter()
    return None


def _enter_private() -> None:
    """Enter a user namespace of our own if that is permitted.

    passt needs none, but an empty root directory does; where it is refused, Landlock alone closes paths.
    """
    try:
        enter_private_user_namespace()
    except OSError as error:
        log.debug(f"no user namespace of our own: {error.strerror}")
