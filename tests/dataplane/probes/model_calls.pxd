"""What the model's sockets are asked for, by number, and how they take and hand over messages."""

from libc.stdint cimport uint8_t

from passt.dataplane.base.externs cimport MSG_TRUNC, memcpy, msghdr, socklen_t

cdef enum:
    MSG_CTRUNC = 8

# In the order of `model_host.OPERATIONS`.
cdef enum Operation:
    OPEN = 0
    BIND_SOURCE
    BIND_DEVICE
    CONNECT
    ACCEPT
    PREPARE_STREAM
    SEND
    PEEK
    CONSUME
    REWIND
    SHUT_WRITE
    TAKE_ERROR
    KEEP_ALIVE
    PATH_INFO
    FOLLOW_ACKS
    WATCH
    SEND_MESSAGE
    RECEIVE_MESSAGE
    RECEIVE
    MOVE
    FILL_PIPE
    SET_OPTION
    SET_INTERFACE
    N_OPERATIONS


cdef inline void look_at(const uint8_t *data, size_t n) noexcept:
    """Read all of it: that is for the sanitizers."""
    cdef uint8_t copy[4096]
    cdef size_t part
    while n:
        part = min(n, sizeof(copy))
        memcpy(copy, data, part)
        data += part
        n -= part


cdef inline ssize_t fill_message(msghdr *message, tuple what) noexcept:
    """Hand a message over as recvmsg(2) does; *what* is (payload, sender, control data)."""
    cdef bytes payload, name, control
    cdef size_t n
    payload, name, control = what
    message.msg_flags = 0
    n = min(<size_t>len(payload), message.msg_iov[0].iov_len)
    if n < <size_t>len(payload):
        message.msg_flags |= MSG_TRUNC
    if n:
        memcpy(message.msg_iov[0].iov_base, <const char *>payload, n)
    if message.msg_name != NULL:
        memcpy(message.msg_name, <const char *>name, min(<size_t>len(name), <size_t>message.msg_namelen))
        message.msg_namelen = <socklen_t>len(name)
    if <size_t>len(control) > message.msg_controllen:
        message.msg_flags |= MSG_CTRUNC
        control = b""
    if len(control):
        memcpy(message.msg_control, <const char *>control, len(control))
    message.msg_controllen = len(control)
    return n
