"""Socket addresses of both families."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport msghdr, sockaddr_storage, socklen_t


cdef socklen_t fill_sockaddr(sockaddr_storage *out, const uint8_t *address, size_t addr_len, uint16_t port,
                             uint32_t scope_id) noexcept nogil
cdef size_t read_sockaddr(const sockaddr_storage *source, uint8_t *address, uint16_t *port) noexcept nogil
cdef void local_address(msghdr *message, sockaddr_storage *out, uint32_t *ifindex) noexcept nogil
