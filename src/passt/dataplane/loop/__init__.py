"""The event loop: epoll and timers."""
