# Sourced by tools/interop-tree and tools/python-trees: Debian trees in which this package is built.
#
# A tree has a compiler and Pythons of its own. What builds the package comes through the pip of .venv, so that no tree
# needs a network. All trees share one copy of the sources, with what Cython and the compilers made of it.

TREES=$TREE/.interop
COPY=$TREES/build # of the sources; /mnt in a tree, while something is built there
MIRROR=http://deb.debian.org/debian

# Debian's experimental is a few packages beside unstable; these are taken of it, and all else of that.
EXPERIMENTAL=(podman buildah netavark golang-github-containers-common golang-github-containers-image)

# Make the tree ROOT, unless it is there with these packages.
make_tree() { # ROOT SUITE PACKAGE...
    local root=$1 suite=$2 key sources=("$MIRROR") hook=()
    shift 2
    key="$suite $*"
    [ "$(cat "$root.made" 2>/dev/null)" = "$key" ] && return
    say "making ${root#"$TREE/"}, a Debian $suite"
    rm -rf "$root" "$root.made"
    mkdir -p "${root%/*}"
    if [ "$suite" = experimental ]; then
        suite=sid sources+=("deb $MIRROR experimental main")
        hook=(--setup-hook="printf 'Package: ${EXPERIMENTAL[*]}\nPin: release a=experimental\nPin-Priority: 990\n' \
            >\"\$1/etc/apt/preferences.d/experimental\"")
    fi
    # A suite that is older than a week says that it has expired; packages are held to its signature all the same.
    mmdebstrap --quiet --variant=minbase --mode=root --aptopt='Acquire::Check-Valid-Until "false"' \
        "${hook[@]}" --include="$(IFS=,; echo "$*")" "$suite" "$root" "${sources[@]}" >&2 || die "mmdebstrap failed: see above"
    echo "$key" >"$root.made"
}

# Copy sources with their times. What is gone here goes there, and so does what was built of Python's own.
copy_sources() { # NAME...
    mkdir -p "$COPY"
    find "$COPY" -path "$COPY/python-*" -prune -o \( -name '*.py' -o -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' \) \
        -exec rm {} +
    rm -rf "$COPY"/{docs,share,packaging,tools}
    tar -c --exclude='*.so' --exclude='src/passt/*.c' --exclude='src/passt/process/passt-*' --exclude='tests/dataplane/probes/*.c' --exclude=__pycache__ \
        --exclude='*.egg-info' "$@" | tar -x -C "$COPY" --no-same-owner
}

# What a build is made of, as one number.
sum_of_sources() { # NAME...
    find "$@" -type f ! -name '*.so' ! -path 'src/passt/*.c' ! -path 'src/passt/process/passt-*' ! -path 'tests/dataplane/probes/*.c' \
        ! -path '*__pycache__*' ! -path '*.egg-info*' -print0 | sort -z | xargs -0 sha256sum | sha256sum
}

# Fetch Python packages for a Python of a tree; there they are below /mnt/python-VERSION.
fetch_packages() { # VERSION REQUIREMENT...
    local version=$1 place=$COPY/python-$1
    shift
    [ "$(cat "$place.made" 2>/dev/null)" = "$*" ] && return
    rm -rf "$place"
    "$VENV/bin/python" -m pip install -qq --target "$place" --python-version "$version" --only-binary :all: "$@" >&2 ||
        die "pip could not fetch for Python $version: $*"
    echo "$*" >"$place.made"
}

# Requirements of pyproject.toml: those of a build, and those of its extra `dev` that are named.
requirements() { # [NAME...]
    "$VENV/bin/python" - "$@" <<'END'
import re, sys, tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
extra = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["dev"]
wanted = project["build-system"]["requires"]
wanted += [line for line in extra if re.match(r"[\w-]+", line)[0] in sys.argv[1:]]
print("\n".join(wanted))
END
}

# Run a command in a tree, where the copy of the sources is /mnt.
run_in() { # ROOT COMMAND...
    local root=$1
    shift
    unshare --mount sh -c 'set -e
        mount --rbind /dev "$1/dev"; mount --bind "$2" "$1/mnt"; root=$1; shift 2
        exec chroot "$root" env -C /mnt "$@"' sh "$root" "$COPY" "$@"
}

# Build a wheel of the copy with PYTHON of a tree, and install it there into the virtual environment PLACE. Set `wheel`,
# its name below /mnt.
install_wheel() { # ROOT PYTHON PLACE [VARIABLE=VALUE...]
    local root=$1 python=$2 place=$3 version
    shift 3
    version=$(chroot "$root" "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [ -e "$root$place" ] || chroot "$root" "$python" -m venv "$place"
    rm -rf "$COPY/wheel-$version"
    run_in "$root" env PYTHONPATH="/mnt/python-$version" "$@" "$place/bin/python" -m pip wheel -qq --no-index --no-deps \
        --no-build-isolation --no-cache-dir --wheel-dir "/mnt/wheel-$version" /mnt >&2 ||
        die "the build with Python $version failed: see above"
    wheel=$(cd "$COPY" && echo wheel-"$version"/passt-*.whl)
    run_in "$root" "$place/bin/python" -m pip install -qq --no-index --no-deps --no-cache-dir --force-reinstall \
        "/mnt/$wheel" >&2 || die "pip could not install $wheel"
}
