"""The part of the bench that runs inside its own namespaces, as PID 1: rounds over sections.

Programs are interleaved within each section, not run one after the other: a figure and the one
that it is divided by are measured seconds apart. From round to round the order rotates. The plan
comes as one JSON argument; progress goes to standard error and the result, as JSON, to standard
output.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine, machines, measure, programs, rows, stats
from bench.errors import BenchError, SectionFailed
from bench.lab import Lab
from bench.measure import Bench, Section
from bench.programs import Program, Session
from bench.rows import Group

if TYPE_CHECKING:
    from collections.abc import Callable

STARTUP_TURNS, STARTUPS_PER_TURN = 5, 3
START_ATTEMPTS = 2  # per phase; a program that cannot start costs its time-out each time


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, as decided outside."""

    project: str
    load: str
    cpus: list[int]
    programs: list[Program]
    groups: list[str]
    rounds: int
    seconds: float
    with_top: bool = False    # our sessions are watched by `passtctl top`

    def to_json(self) -> str:
        """Return the form that from_json() reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan."""
        values = json.loads(text)
        values["programs"] = [
            Program(entry["name"], tuple(entry["command"]), entry["version"]) for entry in values["programs"]
        ]
        return cls(**values)


@dataclass(slots=True)
class Record:
    """All samples: by row key, then program, one per round."""

    rounds: int
    samples: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    failures: list[dict[str, object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, program: str, round_index: int, figures: dict[str, float]) -> None:
        """Store one program's figures of one section."""
        for key, value in figures.items():
            of_row = self.samples.setdefault(key, {})
            of_row.setdefault(program, [None] * self.rounds)[round_index] = value

    def fail(self, program: str, round_index: int, section: str, reason: str) -> None:
        """Store why a section gave nothing."""
        entry = {"program": program, "round": round_index + 1, "section": section, "reason": reason}
        self.failures.append(entry)


def rotated(programs_: list[Program], by: int) -> list[Program]:
    """Return the programs in the order of round *by*."""
    shift = by % len(programs_)
    return programs_[shift:] + programs_[:shift]


class Runner:
    """Runs the rounds of a plan."""

    def __init__(self, plan: Plan, lab: Lab) -> None:
        self.plan = plan
        self.lab = lab
        self.bench = Bench(lab, plan.seconds)
        self.record = Record(plan.rounds)
        self.started = time.monotonic()
        self.control = ""
        self.bypass_offered = True

    def run(self) -> Record:
        """Run all rounds."""
        chosen = [s for s in measure.sections(self.bench) if s.group in self.plan.groups]
        missing = self._missing_controls()
        chosen = [s for s in chosen if s.control not in missing]
        phases = dict.fromkeys((s.mtu, s.forward) for s in chosen)
        for index in range(self.plan.rounds):
            if index and (loud := machine.noise()):
                self.record.notes.append(f"before round {index + 1}: {loud}")
            for mtu, forward in phases:
                if forward and not self.bypass_offered:
                    continue
                self._run_phase(index, [s for s in chosen if (s.mtu, s.forward) == (mtu, forward)])
            if Group.STARTUP in self.plan.groups:
                self._run_startup(index, "startup", programs.startup_ms)
                self._run_startup(index, "startup_all", programs.startup_all_ms)
                self._run_startup(index, "startup_attach", programs.attach_ms)
            if Group.STREAM in self.plan.groups:
                self._run_sum(index)
            if {Group.STREAM, Group.VHOST} & set(self.plan.groups):
                self._run_machines(index)
        return self.record

    def _missing_controls(self) -> set[str]:
        """Find the congestion controls that the kernel lacks; the first it has is the default."""
        missing = set()
        for name in rows.CONGESTION_CONTROLS:
            try:
                self.lab.set_congestion_control(None, name)
            except SectionFailed as error:
                missing.add(name)
                self.record.notes.append(f"{name}: skipped, this kernel does not offer it ({error})")
            else:
                self.control = self.control or name
        return missing

    def _run_phase(self, index: int, chosen: list[Section]) -> None:
        """Run the sections that share their sessions' MTU and forwarding."""
        order = rotated(self.plan.programs, index)
        if chosen[0].forward:  # slirp4netns has no local bypass
            order = [program for program in order if program.name != rows.SLIRP]
        phase = Phase(self, index, chosen[0])
        try:
            if chosen[0].forward and not self._offers_bypass(phase):
                return
            for section in chosen:
                words = []
                for program in order:
                    outcome = phase.measure(program, section)
                    words.append(f"{program.name} {outcome}")
                self._progress(index, f"{section.label}: {', '.join(words)}")
        finally:
            phase.stop_all()

    def _offers_bypass(self, phase: "Phase") -> bool:
        """Start ours with forwarded ports; if it refuses, say so once and leave the group out."""
        ours = next((p for p in self.plan.programs if p.name == rows.OURS), None)
        if ours is None:
            return True
        try:
            phase.session(ours)
        except SectionFailed as error:
            self.bypass_offered = False
            self.record.notes.append(f"local bypass: not measured, ours does not offer it yet ({error})")
        return self.bypass_offered

    def _run_startup(self, index: int, key: str, measure_ms: "Callable[[Lab, Program, int], float]") -> None:
        """Time start-ups in turns, a few of each program at a time; keep the median of each as row *key*."""
        able = [p for p in self.plan.programs if p.command and (key == "startup" or p.name != rows.SLIRP)]
        times: dict[str, list[float | None]] = {p.name: [] for p in able}
        failed: set[str] = set()
        for turn in range(STARTUP_TURNS):
            for program in rotated(able, index + turn):
                if program.name in failed:
                    continue
                try:
                    times[program.name].append(measure_ms(self.lab, program, STARTUPS_PER_TURN))
                except SectionFailed as error:
                    failed.add(program.name)
                    self.record.fail(program.name, index, key, str(error))
        words = [f"{name} failed" for name in failed]
        for name in times.keys() - failed:
            if figures := stats.spread(times[name]):
                self.record.add(name, index, {key: figures.median})
                words.append(f"{name} {figures.median:.1f}")
        self._progress(index, f"{key}: {', '.join(sorted(words))}")

    def _run_sum(self, index: int) -> None:
        """Measure our checksum."""
        if any(p.name == rows.OURS for p in self.plan.programs):
            try:
                self.record.add(rows.OURS, index, machines.sum_rate(Path(self.plan.project)))
            except (SectionFailed, ValueError) as error:
                self.record.fail(rows.OURS, index, "checksum", str(error))

    def _run_machines(self, index: int) -> None:
        """Put each load on our passt, on the C program's, and on bare loopback, one after the other."""
        lacking = self._without_vhost() if Group.VHOST in self.plan.groups else set()
        names = {rows.OURS, rows.PASTA} | ({rows.LOOPBACK} if Group.VHOST in self.plan.groups else set())
        able = [p for p in self.plan.programs if p.name in names]
        failed: set[tuple[str, str]] = set()
        for load in machines.loads(self.plan.groups):
            words = []
            for program in rotated(able, index) if able else []:
                key = (program.name, load.link)
                if key in failed or (load.link != "stream" and program.name in lacking):
                    continue
                if not program.command and not load.beside_loopback:
                    continue
                try:
                    figures = self._load(program, load)
                except SectionFailed as error:
                    failed.add(key)
                    self.record.fail(program.name, index, load.label, str(error))
                    words.append(f"{program.name} failed")
                else:
                    self.record.add(program.name, index, figures)
                    words.append(f"{program.name} {figures[load.key]:.4g}")
            self._progress(index, f"{load.label}: {', '.join(words)}")

    def _load(self, program: Program, load: machines.Load) -> dict[str, float]:
        """Put one load on passt; of bare loopback, as much as iperf3 gets through."""
        if program.command:
            return machines.measure(self.lab, program, load, self.plan.seconds)
        session = programs.start(self.lab, program, load.mtu)
        self.bench.use_control(session, self.control)
        return {load.key: self.bench.bulk(session, self.control, load.way)[
            f"bulk_{load.way}_{load.mtu}_{self.control}"]}  # fmt: skip

    def _without_vhost(self) -> set[str]:
        """Find the programs that do not know vhost-user, and note each one once."""
        found = {p.name for p in self.plan.programs
                 if p.name in {rows.OURS, rows.PASTA} and not machines.knows_vhost(p)}  # fmt: skip
        for name in found:
            note = f"{name}: vhost-user is not measured, its passt does not know --vhost-user"
            if note not in self.record.notes:
                self.record.notes.append(note)
        return found

    def _progress(self, index: int, text: str) -> None:
        elapsed = int(time.monotonic() - self.started)
        print(f"[{elapsed // 60:2}:{elapsed % 60:02}] round {index + 1}/{self.plan.rounds} {text}",
              file=sys.stderr, flush=True)  # fmt: skip


class Phase:
    """The sessions of one phase, started when first needed and again after a failure."""

    def __init__(self, runner: Runner, index: int, like: Section) -> None:
        self._runner = runner
        self._index = index
        self._like = like
        self._sessions: dict[str, Session] = {}
        self._failed: dict[str, tuple[int, str]] = {}

    def session(self, program: Program) -> Session:
        """Return the program's session. Raises SectionFailed if it does not start."""
        session = self._sessions.get(program.name)
        if session is not None:
            if programs.is_alive(session):
                return session
            self._stop(program)
        attempts, reason = self._failed.get(program.name, (0, ""))
        if attempts >= START_ATTEMPTS:
            raise SectionFailed(reason)
        try:
            session = programs.start(
                self._runner.lab, program, self._like.mtu, forward=self._like.forward,
                watched=self._runner.plan.with_top and program.name == rows.OURS)  # fmt: skip
        except SectionFailed as error:
            self._failed[program.name] = (attempts + 1, f"did not start: {error}")
            raise SectionFailed(f"did not start: {error}") from error
        self._sessions[program.name] = session
        return session

    def measure(self, program: Program, section: Section) -> str:
        """Run one section; record figures or failure; return a word for the progress line."""
        runner = self._runner
        try:
            session = self.session(program)
            if not section.control:
                runner.bench.use_control(session, runner.control)
            figures = section.measure(session)
        except SectionFailed as error:
            runner.record.fail(program.name, self._index, section.label, str(error))
            self._stop(program)
            return "failed"
        runner.record.add(program.name, self._index, figures)
        runner.lab.reap_orphans()
        return f"{next(iter(figures.values())):.4g}" if figures else "-"

    def _stop(self, program: Program) -> None:
        session = self._sessions.pop(program.name, None)
        if session is not None:
            programs.stop(self._runner.lab, session)

    def stop_all(self) -> None:
        """End all sessions."""
        for program in self._runner.plan.programs:
            self._stop(program)


def main() -> int:
    """Run the plan in sys.argv[1] and print the record."""
    plan = Plan.from_json(sys.argv[1])
    lab = Lab(Path(plan.load), plan.cpus)
    try:
        lab.set_up()
        lab.uncover(Path(plan.project))
        record = Runner(plan, lab).run()
    except (BenchError, SectionFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    json.dump(asdict(record), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
