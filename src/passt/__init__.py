"""Unprivileged user-mode networking for virtual machines and network namespaces."""

# The one place of the version: tools/release.py finds all others that name it.
__version__ = "0.2.0"
# The commit that an installed package is built from; setup.py fills it in there, and in a source archive.
__commit__ = ""
