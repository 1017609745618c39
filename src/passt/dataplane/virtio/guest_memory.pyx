"""The memory of a machine, as a front end shares it: regions, and where an address of the guest lies in ours.

Theory of operation. A front end (QEMU) hands over descriptors of files, each with the guest's address of a
part of the file and its own ("user") address of the same (QEMU, Vhost-user Protocol, "Memory region
description"). Rings are named by user addresses, buffers by guest addresses. Every address comes from
somebody hostile; it is looked up here, and nothing else makes pointers of such numbers.

A file that is made shorter later takes its pages away: the kernel sends SIGBUS to who touches them. The
handler here then puts zeros in place of the whole mapping, so that the access goes on, and notes that the
memory is lost, which ends the session. A SIGBUS anywhere else ends the process as ever. The handler runs
between any two instructions, so what it reads is static: a table of the mappings, and each entry is complete
before its size says that it is there. System calls that we hand such memory to fail with EFAULT instead.

Dirty pages. While a machine migrates its front end shares a log: a bit for each 4096 bytes of guest addresses
that we wrote since it looked ("Migration" in the same document).
"""

import os
import stat

from cpython.exc cimport PyErr_SetFromErrno
from libc.stdint cimport uint8_t, uint64_t

from passt.dataplane.base.atomics cimport set_bits8
from passt.dataplane.base.externs cimport close, memset
from passt.dataplane.base.wait_limit cimport tell_event

cdef extern from *:
    """
    #include <signal.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/mman.h>

    enum { PASST_MAX_MAPPINGS = 80 };     /* regions, a log, what one process may have besides */

    static struct {
        struct { uintptr_t start; size_t size; } mappings[PASST_MAX_MAPPINGS];
        int lost;
        int installed;
    } passt_shared;

    static void passt_on_bus_error(int signum, siginfo_t *info, void *frame)
    {
        uintptr_t place = (uintptr_t)info->si_addr;
        uintptr_t start;
        size_t size;
        int i;

        (void)frame;
        for (i = 0; i < PASST_MAX_MAPPINGS && info->si_code > 0; i++) {
            size = __atomic_load_n(&passt_shared.mappings[i].size, __ATOMIC_ACQUIRE);
            start = passt_shared.mappings[i].start;
            if (!size || place < start || place - start >= size)
                continue;
            if (mmap((void *)start, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
                break;
            __atomic_store_n(&passt_shared.lost, 1, __ATOMIC_RELEASE);
            return;
        }
        signal(signum, SIG_DFL);          /* the access is tried again, and ends us */
        raise(signum);
    }

    static int passt_note_mapping(void *start, size_t size)
    {
        struct sigaction action;
        int i;

        if (!passt_shared.installed) {
            memset(&action, 0, sizeof(action));
            action.sa_sigaction = passt_on_bus_error;
            action.sa_flags = SA_SIGINFO;
            sigemptyset(&action.sa_mask);
            if (sigaction(SIGBUS, &action, NULL))
                return 0;
            passt_shared.installed = 1;
        }
        for (i = 0; i < PASST_MAX_MAPPINGS; i++)
            if (!passt_shared.mappings[i].size) {
                passt_shared.mappings[i].start = (uintptr_t)start;
                __atomic_store_n(&passt_shared.mappings[i].size, size, __ATOMIC_RELEASE);
                return 1;
            }
        return 0;
    }

    static void passt_forget_mapping(void *start)
    {
        int i;

        for (i = 0; i < PASST_MAX_MAPPINGS; i++)
            if (passt_shared.mappings[i].size && passt_shared.mappings[i].start == (uintptr_t)start)
                __atomic_store_n(&passt_shared.mappings[i].size, 0, __ATOMIC_RELEASE);
    }

    static int passt_is_lost(void)
    {
        return __atomic_load_n(&passt_shared.lost, __ATOMIC_RELAXED);
    }

    static void passt_forget_loss(void)
    {
        __atomic_store_n(&passt_shared.lost, 0, __ATOMIC_RELAXED);
    }
    """
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_NORESERVE
    void *mmap(void *address, size_t n, int protection, int flags, int fd, long offset) nogil
    int munmap(void *address, size_t n) nogil
    bint note_mapping "passt_note_mapping"(void *start, size_t size) nogil
    void forget_mapping "passt_forget_mapping"(void *start) nogil
    bint is_any_lost "passt_is_lost"() nogil
    void forget_loss "passt_forget_loss"() nogil

cdef enum:
    LOG_PAGE_SHIFT = 12           # VHOST_LOG_PAGE is 4096


cdef int prepare_memory() except -1:
    """Install the handler of SIGBUS, which a filter of system calls may forbid later. Raises OSError."""
    cdef uint8_t place = 0
    if not note_mapping(&place, 1):
        PyErr_SetFromErrno(OSError)
    forget_mapping(&place)
    return 0


cdef class GuestMemory:
    """All regions of one machine; none at first."""

    def __cinit__(self):
        self.log_call = -1

    def __dealloc__(self):
        self.clear()

    def clear(self):
        """Unmap all regions and the log; nothing is lost any more."""
        while self.n_regions:
            self.unmap_region(self.n_regions - 1)
        self.forget_log()
        self.set_log_call(-1)
        forget_loss()

    def add(self, guest_address, size, user_address, offset, fd):
        """Map one region; *fd* stays the caller's. Raises ValueError and OSError, then unchanged."""
        cdef Region region
        cdef size_t align
        memset(&region, 0, sizeof(region))
        if not 0 < size < 1 << 63 or max(guest_address, user_address) + size > 1 << 64:
            raise ValueError(f"a memory region of {size} bytes at {guest_address:#x} is none")
        if self.n_regions == MAX_REGIONS:
            raise ValueError(f"there are {<int>MAX_REGIONS} memory regions already")
        region.guest_address = guest_address
        region.user_address = user_address
        region.size = size
        self.check(&region)
        align = check_file(fd, offset, size)
        region.map = map_file(fd, offset, size, align, &region.map_size)
        region.start = <uint8_t *>region.map + <size_t>(offset % align)
        self.regions[self.n_regions] = region
        self.n_regions += 1

    def remove(self, guest_address, size, user_address):
        """Unmap one region. Raises ValueError."""
        cdef int i
        for i in range(self.n_regions):
            if (self.regions[i].guest_address == guest_address and self.regions[i].size == size
                    and self.regions[i].user_address == user_address):
                self.unmap_region(i)
                return
        raise ValueError(f"there is no memory region of {size} bytes at {guest_address:#x}")

    def share_log(self, fd, size, offset):
        """Log written pages in *size* bytes of *fd* from *offset* on. Raises ValueError and OSError."""
        cdef size_t align
        cdef size_t map_size = 0
        cdef void *map
        if not 0 < size < 1 << 40:
            raise ValueError(f"a log of {size} bytes is none")
        align = check_file(fd, offset, size)
        map = map_file(fd, offset, size, align, &map_size)
        self.forget_log()
        self.log_map = map
        self.log_map_size = map_size
        self.log = <uint8_t *>map + <size_t>(offset % align)
        self.log_size = size

    def set_log_call(self, int fd):
        """Tell of noted pages by the eventfd *fd*, which is ours now; -1: not at all."""
        if self.log_call >= 0:
            close(self.log_call)
        self.log_call = fd

    cdef void take_log(self, GuestMemory other) noexcept:
        """Take the log of *other*, which has none from now on."""
        self.log, self.log_size = other.log, other.log_size
        self.log_map, self.log_map_size = other.log_map, other.log_map_size
        self.log_call, self.has_marked = other.log_call, other.has_marked
        other.log_map = NULL
        other.log_call = -1
        other.forget_log()

    cdef void forget_log(self) noexcept nogil:
        if self.log_map != NULL:
            forget_mapping(self.log_map)
            munmap(self.log_map, self.log_map_size)
        self.log_map = NULL
        self.log = NULL
        self.log_size = 0

    cdef void check(self, const Region *wanted) except *:
        """See that no other region has one of the addresses. Raises ValueError."""
        cdef int i
        cdef Region *other
        for i in range(self.n_regions):
            other = &self.regions[i]
            if (overlaps(wanted.guest_address, wanted.size, other.guest_address, other.size)
                    or overlaps(wanted.user_address, wanted.size, other.user_address, other.size)):
                raise ValueError(f"memory regions at {wanted.guest_address:#x} and {other.guest_address:#x}"
                                 " overlap")

    cdef void unmap_region(self, int index) noexcept nogil:
        forget_mapping(self.regions[index].map)
        munmap(self.regions[index].map, self.regions[index].map_size)
        self.n_regions -= 1
        self.regions[index] = self.regions[self.n_regions]
        self.last = 0

    cdef uint8_t *at_guest(self, uint64_t address, uint64_t *n) noexcept nogil:
        """Our pointer to what the guest has at *address*; NULL: it has nothing there.

        *n* bytes are wanted; it becomes less if the region ends before.
        """
        cdef Region *region = &self.regions[self.last]
        cdef int i
        if not self.n_regions or address - region.guest_address >= region.size:
            for i in range(self.n_regions):
                region = &self.regions[i]
                if address - region.guest_address < region.size:
                    self.last = i
                    break
            else:
                return NULL
        n[0] = min(n[0], region.size - (address - region.guest_address))
        return region.start + (address - region.guest_address)

    cdef uint8_t *at_user(self, uint64_t address, uint64_t n) noexcept nogil:
        """Our pointer to *n* bytes that the front end has at *address*; NULL: not in one region."""
        cdef Region *region
        cdef int i
        for i in range(self.n_regions):
            region = &self.regions[i]
            if address - region.user_address < region.size:
                if n > region.size - (address - region.user_address):
                    return NULL
                return region.start + (address - region.user_address)
        return NULL

    cdef void mark(self, uint64_t address, uint64_t n) noexcept nogil:
        """Note that we wrote the *n* bytes at guest address *address*; call only while there is a `log`."""
        cdef uint64_t page = address >> LOG_PAGE_SHIFT
        cdef uint64_t last = (address + n - 1) >> LOG_PAGE_SHIFT
        if not n:
            return
        self.has_marked = True
        while page <= last and page >> 3 < self.log_size:
            set_bits8(self.log + (page >> 3), <uint8_t>(1 << (page & 7)))
            page += 1

    cdef void mark_ours(self, const uint8_t *place, size_t n) noexcept nogil:
        """Note that we wrote *n* bytes at *place* of our mappings; call only while there is a `log`.

        Regions that the kernel has mapped one behind the other may both have a part of them.
        """
        cdef Region *region
        cdef size_t part
        cdef int i = 0
        while n and i < self.n_regions:
            region = &self.regions[i]
            i += 1
            if region.start <= place < region.start + region.size:
                part = min(n, region.size - <size_t>(place - region.start))
                self.mark(region.guest_address + <uint64_t>(place - region.start), part)
                # What touches it in our mappings may be of any other region.
                place += part
                n -= part
                i = 0

    cdef void tell_marked(self) noexcept nogil:
        """Tell the front end if pages were noted since the last time; not again if that keeps us waiting."""
        if self.has_marked and self.log_call >= 0 and not tell_event(self.log_call):
            close(self.log_call)
            self.log_call = -1
        self.has_marked = False

    cdef bint is_lost(self) noexcept nogil:
        """Whether the front end has cut memory off that it shares."""
        return is_any_lost()


cdef bint overlaps(uint64_t start, uint64_t size, uint64_t other, uint64_t other_size) noexcept nogil:
    return other - start < size or start - other < other_size


cdef size_t check_file(int fd, offset, size) except 0:
    """See that *fd* is a file with *size* bytes from *offset* on; returns what mappings of it are aligned to.

    A file on hugetlbfs tells its large pages as its block size. Raises ValueError and OSError.
    """
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("memory is shared by a descriptor that is no file")
    if offset + size > facts.st_size:
        raise ValueError(f"memory to byte {offset + size} of a file is shared that has {facts.st_size}")
    if facts.st_blksize < 1 << 12 or facts.st_blksize & (facts.st_blksize - 1):
        return 1 << 12
    return facts.st_blksize


cdef void *map_file(int fd, offset, size, size_t align, size_t *map_size) except NULL:
    """Map *size* bytes of *fd* from *offset* on, and what lies around them in their pages. Raises OSError."""
    cdef size_t first = offset - offset % align
    cdef void *map
    map_size[0] = (offset + size - first + align - 1) // align * align
    map = mmap(NULL, map_size[0], PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, first)
    if map == MAP_FAILED:
        PyErr_SetFromErrno(OSError)
    if not note_mapping(map, map_size[0]):
        munmap(map, map_size[0])
        raise OSError("too many mappings of shared memory")
    return map
