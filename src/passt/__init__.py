"""Unprivileged user-mode networking for virtual machines and network namespaces."""

__version__ = "0.1.0"
