"""Results for people and for programs: the table, the verdicts on the targets, the JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench import rows, stats
from bench.rows import ROWS, TARGETS, Row, Target
from bench.stats import Samples, Spread, Verdict

RowSamples = Mapping[str, Mapping[str, Samples]]  # row key -> program -> one per round
RATIO_PROGRAMS = (rows.OURS, rows.PASTA, rows.SLIRP)


def number(value: float) -> str:
    """Format a figure with about three significant digits."""
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    for limit, digits in ((0.1, 4), (10, 2), (100, 1)):
        if abs(value) < limit:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def span(spread: Spread) -> str:
    """Format the spread of several rounds; one round has none."""
    return f" [{number(spread.low)}-{number(spread.high)}]" if spread.n > 1 else ""


def base_samples(row: Row, program: str, samples: RowSamples) -> Samples:
    """Return the denominators of a row's ratios for one program; empty if it has none."""
    if row.base_row:
        return samples.get(row.base_row, {}).get(program, [])
    if not row.base or program == row.base:
        return []
    return samples.get(row.key, {}).get(row.base, [])


def row_ratio(row: Row, program: str, samples: RowSamples) -> Spread | None:
    """Return the spread of a program's ratios in a row, None if there are none."""
    mine = samples.get(row.key, {}).get(program, [])
    return stats.spread(stats.ratios(mine, base_samples(row, program, samples)))


def cell(row: Row, program: str, samples: RowSamples) -> str:
    """Format one program's figure and ratio in a row."""
    figure = stats.spread(samples.get(row.key, {}).get(program, []))
    if figure is None:
        return "-"
    ratio = row_ratio(row, program, samples)
    if ratio is None:
        return f"{number(figure.median)}{span(figure)}"
    return f"{number(figure.median)} x{number(ratio.median)}{span(ratio)}"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Pad columns to a common width; the first is aligned to the left, figures too."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ([word.ljust(width) for word, width in zip(line, widths, strict=True)] for line in lines)
    return ["  ".join(words).rstrip() for words in padded]


def table(samples: RowSamples, programs: Sequence[str]) -> list[str]:
    """Return the lines of the main table: rows that have at least one figure."""
    lines = [["", "unit", *programs, "x is the ratio to"]]
    for row in ROWS.values():
        if row.key in samples:
            cells = [cell(row, program, samples) for program in programs]
            lines.append([row.label, row.unit, *cells, row.ratio_of])
    return aligned(lines) if len(lines) > 1 else []


def target_spread(target: Target, samples: RowSamples) -> Spread | None:
    """Return the figures, or ratios, that a target is about."""
    mine = samples.get(target.row, {}).get(rows.OURS, [])
    if target.over is None:
        return stats.spread(mine)
    row, program = target.over
    return stats.spread(stats.ratios(mine, samples.get(row, {}).get(program, [])))


def over_text(target: Target) -> str:
    """Say what a target's figure is a ratio of, or its unit."""
    if target.over is None:
        return ROWS[target.row].unit
    row, program = target.over
    whose = {rows.LOOPBACK: "loopback's", rows.PASTA: "Debian's pasta's"}.get(program, "its own")
    return f"of {whose}" if row == target.row else f"of {whose} {ROWS[row].label}"


def judged(samples: RowSamples) -> list[tuple[Target, Spread | None, Verdict]]:
    """Judge every target."""
    results = []
    for target in TARGETS:
        figures = target_spread(target, samples)
        results.append((target, figures, stats.judge(figures, target.relation, target.limit)))
    return results


def target_table(samples: RowSamples) -> list[str]:
    """Return the lines of the targets that were measured."""
    lines = [["stage", "target", "is", "must be", "", "verdict"]]
    for target, figures, verdict in judged(samples):
        if figures is not None:
            lines.append([
                target.stage, ROWS[target.row].label, f"{number(figures.median)}{span(figures)}",
                f"{target.relation} {target.limit:g}", over_text(target), verdict,
            ])  # fmt: skip
    return aligned(lines) if len(lines) > 1 else []


def failure_lines(failures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line per program, section and reason, with the rounds where it happened."""
    seen: dict[tuple[str, str, str], list[int]] = {}
    for failure in failures:
        key = (failure["program"], failure["section"], failure["reason"])
        seen.setdefault(key, []).append(failure["round"])
    return [
        f"{program}, {section} (round {', '.join(map(str, which))}): {reason}"
        for (program, section, reason), which in seen.items()
    ]


def spread_json(spread: Spread | None) -> dict[str, float] | None:
    """Return a spread as a JSON object."""
    return None if spread is None else spread._asdict()


def row_json(row: Row, samples: RowSamples) -> dict[str, Any]:
    """Return one row with all its samples and ratios."""
    of_row = samples[row.key]
    return {
        "key": row.key, "group": row.group, "label": row.label, "unit": row.unit, "ratio_of": row.ratio_of,
        "samples": of_row,
        "figures": {program: spread_json(stats.spread(values)) for program, values in of_row.items()},
        "ratios": {program: spread_json(row_ratio(row, program, samples)) for program in of_row},
    }  # fmt: skip


def target_json(samples: RowSamples) -> list[dict[str, Any]]:
    """Return all targets with their verdicts, the ones not measured too."""
    return [
        {
            "stage": target.stage, "row": target.row, "of": over_text(target), "relation": target.relation,
            "limit": target.limit, "figure": spread_json(figures), "verdict": verdict,
        }
        for target, figures, verdict in judged(samples)
    ]  # fmt: skip


def text(result: Mapping[str, Any]) -> str:
    """Return the whole report for people."""
    samples: RowSamples = result["samples"]
    names = [program["name"] for program in result["programs"]]
    settings = result["settings"]
    lines = [f"{p['name']}: {p['version']}" for p in result["programs"] if p["command"]]
    if settings["rounds"] > 1:
        lines.append(f"{settings['rounds']} rounds: medians, [smallest-largest]; ratios within each round")
    else:
        lines.append("one round: figures without spread, good for a first look only")
    lines += ["", *table(samples, names)]
    targets = target_table(samples)
    if targets:
        lines += ["", *targets]
    for title, items in (("Failed:", failure_lines(result["failures"])), ("Notes:", result["notes"])):
        if items:
            lines += ["", title, *(f"  {item}" for item in items)]
    return "\n".join(lines)


def to_json(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole result for programs."""
    samples: RowSamples = result["samples"]
    kept = {key: result[key] for key in ("machine", "settings", "programs", "failures", "notes")}
    return {
        "format": 1, **kept,
        "rows": [row_json(row, samples) for row in ROWS.values() if row.key in samples],
        "targets": target_json(samples),
    }  # fmt: skip
