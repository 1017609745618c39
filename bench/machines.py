"""passt and a machine that is none: what goes through its socket or shared memory, frame by frame.

The guest's end is `load machine` (src/machine.c), so no guest's kernel and no QEMU are measured with it. It
opens its flows to the gateway's address, which passt maps to the host's loopback, where the other end is.
"""

import os
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bench.errors import SectionFailed
from bench.lab import HOST_ADDRESSES, NET_ADDRESSES, Lab, as_user, await_true, kill_group, read_until, run
from bench.measure import DATAGRAM_LEN, GRACE_S, ROUND_TRIP_LEN, flood_result, percentiles, rate_of
from bench.programs import NO_FORWARDING, Program, last_words
from bench.rows import RINGS, STREAM_MTUS, Group

RUN = Path("/dev/net/passt")  # on the lab's own tmpfs
GUEST, GATEWAY = HOST_ADDRESSES[0].split("/")[0], NET_ADDRESSES[0].split("/")[0]
SEGMENT_LEN, SUM_SECONDS = 1448, 0.5
SERVERS = {"tcp-out": ("tcp-server", "sink"), "tcp-in": ("tcp-server", "source"), "rr": ("tcp-server", "rr")}


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement: *mode*, *link* and *ring* are those of `load machine`."""

    key: str
    label: str
    mode: str
    mtu: int
    link: str = "stream"
    ring: int = RINGS[0]

    @property
    def way(self) -> str:
        """Whether much goes out or in; empty if neither."""
        return self.mode.removeprefix("tcp-") if self.mode in {"tcp-out", "tcp-in"} else ""

    @property
    def beside_loopback(self) -> bool:
        """Whether bare loopback is measured beside it, as its row has a target over that."""
        return self.link == "vhost" and self.ring == RINGS[0] and bool(self.way)


LINKS = (("stream", "passt", "stream"), ("vhost", "vhost-user", "vhost"),
         ("vhost_plain", "vhost-user, no offloads", "vhost-plain"))  # fmt: skip


def loads(groups: Collection[str]) -> list[Load]:
    """List the measurements of these groups; those of vhost-user stand beside the stream's."""
    first, ring = STREAM_MTUS[0], RINGS[1]
    links = LINKS if Group.VHOST in groups else LINKS[:1]
    found = [
        *(Load(f"{key}_{way}_{mtu}", f"{label}, TCP {way}, MTU {mtu}", f"tcp-{way}", mtu, link)
          for mtu in STREAM_MTUS for way in ("out", "in") for key, label, link in links),
        *(Load(f"{key}_rr", f"{label}, request/response", "rr", first, link) for key, label, link in links),
        *(Load(f"{key}_udp_{way}", f"{label}, UDP {way}", f"udp-{way}", first, link)
          for way in ("out", "in") for key, label, link in links),
    ]  # fmt: skip
    if Group.VHOST in groups:
        found += [
            Load("vhost_pages_out", "vhost-user, TCP out, in pages", "tcp-out", first, "vhost-pages"),
            *(Load(f"vhost_{ring}_{way}", f"vhost-user, TCP {way}, ring of {ring}", f"tcp-{way}", first,
                   "vhost", ring) for way in ("out", "in")),
        ]  # fmt: skip
    return found


def knows_vhost(program: Program) -> bool:
    """Say whether a program's passt has --vhost-user."""
    done = subprocess.run([*passt_of(program), "--help"], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=GRACE_S)  # fmt: skip
    return "--vhost-user" in done.stdout + done.stderr


def sum_rate(project: Path) -> dict[str, float]:
    """Measure the checksum of our data plane in GB/s. Raises SectionFailed."""
    code = f"import sums; print(sums.rate({SEGMENT_LEN}, {SUM_SECONDS}))"
    search = f"PYTHONPATH={project / 'bench/bin'}:{project / 'src'}"
    return {"stream_sum": float(run(["env", search, sys.executable, "-c", code]))}


def passt_of(program: Program) -> tuple[str, ...]:
    """Return the command of the passt beside a program's pasta."""
    pasta = Path(program.command[0])
    return (str(pasta.with_name(pasta.name.replace("pasta", "passt"))), *program.command[1:])


def measure(lab: Lab, program: Program, load: Load, seconds: float) -> dict[str, float]:
    """Start passt, put the load on it and end it. Raises SectionFailed."""
    RUN.mkdir(exist_ok=True)
    RUN.chmod(0o777)
    uid, log = lab.next_uid(), os.memfd_create("log")
    path = RUN / f"{uid}.socket"
    command = [*passt_of(program), "-f", "-s", str(path), "-m", str(load.mtu), *NO_FORWARDING[:4],
               *([] if load.link == "stream" else ["--vhost-user"])]  # fmt: skip
    process = lab.spawn([*as_user(uid), *command], stderr=log)

    def is_ready() -> bool:
        if process.poll() is not None:
            raise SectionFailed(f"it ended with status {process.returncode}: {last_words(log)}")
        return path.exists()

    try:
        await_true(is_ready, f"the socket of {command[0]}")
        return {load.key: _figure(lab, path, load, seconds)}
    finally:
        lab.kill_user(uid)
        kill_group(process)
        if process.stdout:
            process.stdout.close()
        os.close(log)
        path.unlink(missing_ok=True)
        lab.reap_orphans()


def _figure(lab: Lab, path: Path, load: Load, seconds: float) -> float:
    """Measure Gbit/s, datagrams per second, or microseconds of a round trip."""
    port, limit = str(lab.next_port()), seconds + GRACE_S
    size = str(ROUND_TRIP_LEN if load.mode == "rr" else DATAGRAM_LEN)
    if load.mode in SERVERS:
        name, service = SERVERS[load.mode]
        server = [lab.load, name, port, service, f"{limit + 5:g}"]
    elif load.mode == "udp-out":
        server = [lab.load, "udp-sink", port, f"{limit:g}"]
    else:
        server = [lab.load, "udp-blast", port, size, f"{seconds:g}", "0", f"{limit:g}", "joined"]
    # As root, which may connect to any program's socket.
    client = [lab.load, "machine", str(path), GUEST, GATEWAY, port, str(load.mtu), f"{seconds:g}",
              load.mode, size, load.link, str(load.ring)]  # fmt: skip
    with lab.server(None, server) as far:
        result = lab.client(None, client, limit, privileged=True)
        if load.mode == "udp-out":
            return flood_result(read_until(far, "}", limit), result["sent"])[0]
    if load.mode == "udp-in":
        return rate_of(result)
    if load.mode == "rr":
        return percentiles(result, "rr")["rr_p50"]
    if result["reset"] or not result["received"]:
        raise SectionFailed("the connection was reset")
    return float(result["received"]) * 8 / float(result["seconds"]) / 1e9
