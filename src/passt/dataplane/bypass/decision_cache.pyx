"""What the policy has said before.

Theory of operation. Where a bypassed connection goes follows from the two addresses and the listener;
the policy says so by `Target.lasting`. A question costs Python some microseconds, a tenth of what the kernel
takes to make the connection, so such answers are kept in a small table, one for each slot of a hash
(`Core.keep_answer`). All are forgotten when the guest's addresses change, as the policy may go by them, and
when a listener is removed, as another one may get its index.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.core.core cimport Answer, Core, Seen, answer_slot
from passt.dataplane.sockets.sockets cimport read_sockaddr
from passt.dataplane.base.externs cimport memcmp, memset, sockaddr_storage


cdef bint find_answer(Core core, uint32_t listener, const sockaddr_storage *peer,
                      const sockaddr_storage *local, Seen *seen) noexcept nogil:
    """Fill *seen* with what the policy would say of a connection; False: it has to be asked."""
    cdef uint8_t far[16]
    cdef uint8_t near[16]
    cdef uint16_t port = 0
    cdef size_t n
    cdef Answer *answer
    if not core.has_answers or core.untold:
        return False
    n = read_sockaddr(peer, far, &port)
    read_sockaddr(local, near, &port)
    answer = &core.answers[answer_slot(listener, far, near)]
    if (answer.listener != listener + 1 or answer.addr_len != n or memcmp(answer.peer, far, 16)
            or memcmp(answer.local, near, 16)):
        return False
    memset(seen, 0, sizeof(Seen))
    seen.bypass = True
    seen.from_namespace = answer.from_namespace
    seen.route = answer.route
    return True
