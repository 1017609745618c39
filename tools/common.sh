# Sourced by the scripts in tools/ and demo/: messages, privileges, and where things are.

TREE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$TREE/.venv
STAMPS=$VENV/stamps
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

say() {
    printf '%s\n' "passt: $*" >&2
}

die() {
    say "$@"
    exit 1
}

# Run a command with root's rights: as it is for root, through sudo for others. Without a
# terminal sudo may not ask for a password.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

can_be_root() {
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }
}

# Run a command as the owner of the tree, so that "sudo make test" leaves nothing there that its
# owner cannot remove.
as_owner() {
    local owner group home
    owner=$(stat -c %u "$TREE")
    group=$(stat -c %g "$TREE")
    if [ "$(id -u)" -ne 0 ] || [ "$owner" -eq 0 ]; then
        "$@"
    else
        home=$(getent passwd "$owner" | cut -d: -f6) || home=
        setpriv --reuid "$owner" --regid "$group" --clear-groups env HOME="${home:-/nonexistent}" "$@"
    fi
}

# The text of a program of ours. Those that pip makes load more than the program itself does, and listen to
# PYTHONPATH; here not even the module `site` is loaded, so the place of the package is written out.
program_text() { # PYTHON PLACE
    printf '#!%s -IS\nimport sys\n\nsys.path.append(%s)\n\nfrom passt.cli import main\n\nsys.exit(main())\n' \
        "$1" "$("$VENV/bin/python" -ISc 'import sys; print(ascii(sys.argv[1]))' "$2")"
}
