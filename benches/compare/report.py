"""Medians as Markdown."""

import statistics

import tunnels

COLUMNS = {
    "cpu_us": ("CPU µs / message", "{:.2f}"),
    "cpu_us_per_mib": ("CPU µs / MiB", "{:.0f}"),
    "syscalls": ("system calls / message", "{:.2f}"),
    "wakeups": ("sleeps / message", "{:.2f}"),
    "per_second": ("messages / s", "{:,.0f}"),
    "p50_us": ("p50 µs", "{:,.0f}"),
    "p99_us": ("p99 µs", "{:,.0f}"),
    "p999_us": ("p99.9 µs", "{:,.0f}"),
    "calm_p50_us": ("p50 without", "{:,.0f}"),
    "calm_p99_us": ("p99 without", "{:,.0f}"),
    "calm_p999_us": ("p99.9 without", "{:,.0f}"),
    "told": ("told to go", "{:,.0f}"),
    "fresh": ("bytes / connection", "{:,.0f}"),
    "used": ("after an echo", "{:,.0f}"),
    "seconds": ("seconds", "{:.2f}"),
    "after": ("bytes / connection", "{:,.0f}"),
    "settled": ("12 s later", "{:,.0f}"),
}

ONLY_FOR_HERDS = {"seconds", "after"}

BUSY = 0.9
"""Of its core, that a proxy has to use where the rate is to be its own."""


def markdown(results, machine):
    """A table per scenario."""
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores (one for the proxy, one for load and server), {machine['system']}, "
        f"{machine['date']}. " + "; ".join(dict.fromkeys(v for v in machine["versions"].values() if v)) + "."
    ]
    for scenario in dict.fromkeys(result["scenario"] for result in results):
        lines += ["", f"**{scenario}**", "", *table([one for one in results if one["scenario"] == scenario])]
    return "\n".join(lines) + "\n"


def table(results):
    names = list(dict.fromkeys(result["proxy"] for result in results))
    medians = {name: median([one for one in results if one["proxy"] == name]) for name in names}
    is_herd = any("after" in figures for figures in medians.values())
    columns = [key for key in COLUMNS if any(key in figures for figures in medians.values())]
    columns = [key for key in columns if is_herd or key not in ONLY_FOR_HERDS]
    best = "cpu_us" if "cpu_us" in columns else "fresh"
    own = medians.get("wsgate", {}).get(best)
    heading = ["proxy", *(COLUMNS[key][0] for key in columns), "wsgate / it"]
    yield "| " + " | ".join(heading) + " |"
    yield "|---|" + "---:|" * (len(heading) - 1)
    for name in names:
        figures = medians[name]
        cells = [cell(key, figures) for key in columns]
        theirs = figures.get(best) if name != "direct" else None
        cells.append(f"{own / theirs:.2f}" if own and theirs else "")
        yield "| " + " | ".join([tunnels.ALL[name].title, *cells]) + " |"
    if any(is_limited(figures) for figures in medians.values()):
        yield ""
        yield "(*) load and server were the limit, not the proxy."


def median(results):
    """Of each figure that is a number."""
    keys = {key for result in results for key, value in result.items() if isinstance(value, (int, float))}
    return {key: statistics.median(result[key] for result in results if key in result) for key in keys - {"round"}}


def is_limited(figures):
    return "per_second" in figures and 0 < figures.get("proxy_busy", 1) < BUSY


def cell(key, figures):
    if key not in figures or (key == "cpu_us" and not figures[key]):
        return ""
    limited = "*" if key == "per_second" and is_limited(figures) else ""
    return COLUMNS[key][1].format(figures[key]) + limited
