# Sourced by the scripts in tools/ and demo/: messages, privileges, and where things are.

TREE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$TREE/.venv
STAMPS=$VENV/stamps
LOGS=$TREE/.setup
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

say() {
    printf '%s\n' "passt: $*" >&2
}

die() {
    say "$@"
    exit 1
}

# Run a command with root's rights: as it is for root, through sudo for others. sudo asks on the terminal, if
# there is one, wherever standard input comes from.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has_terminal; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

has_terminal() {
    (: </dev/tty) 2>/dev/null
}

# True for root, and for who may use sudo; a password is asked for here, once in each script.
can_be_root() {
    [ -n "${root_status:-}" ] || root_status=$(
        ask_for_root >&2
        echo $?
    )
    return "$root_status"
}

ask_for_root() {
    [ "$(id -u)" -eq 0 ] && return
    command -v sudo >/dev/null || return 1
    sudo -n true 2>/dev/null && return
    has_terminal && sudo -v
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

# Let the owner of the tree have what root made there: "make clean" is the owner's. Only the tree of clients
# stays as it is; it is a system of its own.
give_back() {
    local owner
    owner=$(stat -c %u "$TREE")
    [ "$owner" -ne 0 ] || return 0
    as_root find "$TREE" -xdev -path "$TREE/.interop" -prune -o -uid 0 -exec \
        chown --no-dereference "$owner:$(stat -c %g "$TREE")" {} +
}

# Run a command that takes long and prints much: all of it goes to LOG, and how far it is to standard error.
# READER is called with each line: it sets `progress`, and fails for a line that is not for the log.
long_step() { # LOG READER COMMAND...
    local log=$LOGS/$1 reader=$2
    shift 2
    as_owner mkdir -p "$LOGS"
    # Its own standard input, so that nothing asks there; as_owner's tee, as root must not write for others.
    if "$@" 2>&1 </dev/null | follow "$reader" | as_owner tee "$log" >/dev/null; then
        return 0
    fi
    grep -v '^ *$' "$log" | tail -n 12 | sed 's/^/    /' >&2
    say "all that this step printed is in $log"
    return 1
}

# On a terminal one line shows the latest state; elsewhere there is a line every ten seconds.
follow() { # READER
    local line progress='' shown='' told=$SECONDS
    while IFS= read -r line; do
        "$1" "$line" && printf '%s\n' "$line"
        [ "$progress" != "$shown" ] || continue
        shown=$progress
        if [ -t 2 ]; then
            printf '\r\033[Kpasst: %s' "$progress" >&2
        elif [ $((SECONDS - told)) -ge 10 ]; then
            told=$SECONDS
            say "$progress"
        fi
    done
    if [ -t 2 ] && [ -n "$shown" ]; then
        printf '\r\033[K' >&2
    fi
}

# Of apt-get -o APT::Status-Fd=1, such as "pmstatus:gcc:35.7:Unpacking gcc (amd64)".
read_apt() { # LINE
    [[ $1 =~ ^(dl|pm)status:.*:([0-9]+)\.[0-9]+: ]] || return 0
    case ${BASH_REMATCH[1]} in
        dl) progress="  downloading, ${BASH_REMATCH[2]} %" ;;
        pm) progress="  unpacking and setting up, ${BASH_REMATCH[2]} %" ;;
    esac
    return 1
}

# Of pip: what it is about to fetch. Its build of this package: what Cython translates and the compiler compiles.
read_pip() { # LINE
    case $1 in
        *Collecting\ *) progress="  ${1##*Collecting }" ;;
        *Installing\ collected*) progress="  putting the packages into .venv" ;;
    esac
}

read_build() { # LINE
    compiled=${compiled:-0}
    if [[ $1 =~ \[\ *([0-9]+)/([0-9]+)\]\ Cythonizing ]]; then
        progress="  translating, ${BASH_REMATCH[1]} of ${BASH_REMATCH[2]} modules"
    elif [[ $1 =~ building\ \'.*\' ]]; then
        compiled=$((compiled + 1))
        progress="  compiling, module $compiled"
    fi
}

# The text of a program of ours for a tree that is not installed: as src/launcher starts one that is, not even the
# module `site` is loaded, so the place of the package is written out.
program_text() { # PYTHON PLACE
    printf '#!%s -IS\nimport sys\n\nsys.path.append(%s)\n\nfrom passt.cli import main\n\nsys.exit(main())\n' \
        "$1" "$("$VENV/bin/python" -ISc 'import sys; print(ascii(sys.argv[1]))' "$2")"
}

# Times in what is packed are those of the commit.
set_source_time() {
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$TREE" -c safe.directory="$TREE" log -1 --format=%ct 2>/dev/null ||
        echo 315532800)}
    export SOURCE_DATE_EPOCH
}

# Make dist/passt-VERSION.tar.gz, and from nothing but that a wheel for the Python of .venv, in build/wheel. Set
# `version`, `archive` and `wheel`. A wheel of the same sources is taken as it is.
build_wheel() {
    local key directory=build/wheel
    # It would be kept, be several times as slow, and need a newer C library: strtoul(3) of assertions is one of C23.
    [ -z "${PASST_DEBUG:-}${PASST_SANITIZE:-}" ] ||
        die "PASST_DEBUG and PASST_SANITIZE are for builds in place (tools/debug-build), not for packages: unset them"
    version=$("$VENV/bin/python" tools/release.py --version)
    archive=dist/passt-$version.tar.gz
    set_source_time
    as_owner mkdir -p dist "$directory"
    long_step sdist.log read_build as_owner "$VENV/bin/python" setup.py -q sdist --dist-dir dist ||
        die "the source archive could not be made"
    # Of the archive what the wheel is made of: tests and pages may change.
    key="$("$VENV/bin/python" --version) $(tar -xzOf "$archive" --wildcards --no-wildcards-match-slash \
        "passt-$version/src" "passt-$version/share" "passt-$version/docs/*.1" \
        "passt-$version/"{setup.py,pyproject.toml,README.md,LICENSE} | sha256sum)"
    wheel=$(find "$directory" -name '*.whl' | head -n 1)
    [ -z "$wheel" ] || [ "$(cat "$directory/key" 2>/dev/null)" != "$key" ] || return 0
    as_owner rm -rf "$directory"
    as_owner mkdir -p "$directory"
    say "building the wheel, $(find src -name '*.pyx' | wc -l) modules"
    long_step wheel.log read_build as_owner env PYTHONUNBUFFERED=1 "$VENV/bin/python" -m pip wheel -v --no-deps \
        --no-build-isolation --no-cache-dir --wheel-dir "$directory" "$archive" || die "the build failed"
    wheel=$(find "$directory" -name '*.whl')
    echo "$key" | as_owner tee "$directory/key" >/dev/null
}

# Build the data plane and the tests' probes in a copy of the tree, as the variables of setup.py in the
# environment say. What is built stays there; sources are those of the tree with their times, so that another run
# compiles what has changed only.
build_copy() { # DIRECTORY [PROBE...]
    local copy=$1 jobs
    shift
    jobs=$(nproc)
    mkdir -p "$copy"
    find "$copy" -type f ! -path "$copy/build/*" ! -name '*.so' ! -name '*.c' -delete
    tar -C "$TREE" -cf - --exclude='*.so' --exclude='src/passt/*.c' --exclude='tests/*.c' --exclude='passt-reader' \
        --exclude='passt-configurer' --exclude=__pycache__ --exclude='*.egg-info' \
        setup.py pyproject.toml README.md LICENSE src tests docs tools bench | tar -xf - -C "$copy"
    env -C "$copy" PYTHONPATH="$copy/src" "$VENV/bin/python" setup.py -q build_ext --inplace --parallel "$jobs" \
        >"$copy/build.log" 2>&1 || { tail -n 40 "$copy/build.log"; exit 1; }
    env -C "$copy" PYTHONPATH="$copy/src" "$VENV/bin/python" tests/build_probes.py "$@" \
        >"$copy/probes.log" 2>&1 || { tail -n 40 "$copy/probes.log"; exit 1; }
}

# Set `sanitizer_environment`, for env(1): a Python that the compiler did not instrument needs the runtimes loaded
# before all else, and malloc(3) for its objects, else the bounds of bytes objects are not seen. An
# interpreter frees little at its end, so leaks are no finding; tests hold each engine to its accounts instead.
find_sanitizers() { # [LIBRARY, to be loaded even before]
    sanitizer_environment=(PYTHONMALLOC=malloc
        LD_PRELOAD="${1:-} $(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
        ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=1:verify_asan_link_order=0:quarantine_size_mb=64"
        UBSAN_OPTIONS=print_stacktrace=1)
}
