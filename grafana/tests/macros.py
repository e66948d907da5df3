"""What Grafana does to a query's text before the data source sees it: variables in the browser, then macros in its backend.

Everything is text substitution, as in Grafana: a variable with `:regex` becomes its values with regular expression characters
escaped, `(a|b)` where several are chosen, and the variable's own text for "All" as it stands.
"""
import datetime
import re

# Grafana rounds range / points to one of these, in seconds; above a day to days.
NICE = [10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 604800]


def seconds(words):
    """`10s`, `5m`, `1h`, `30d` in seconds."""
    number, unit = re.fullmatch(r"(\d+)([smhdw])", words).groups()
    return int(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]


def interval(span, points, least):
    """The interval of a panel: no shorter than its least, and a nice number."""
    wanted = max(span / points, least)
    return max(least, next((step for step in NICE if step * 1.2 >= wanted), NICE[-1]))


def go_duration(length):
    """How Go writes a length of whole seconds: `1h0m0s`, `1m0s`, `10s`."""
    hours, rest = divmod(int(length), 3600)
    minutes, left = divmod(rest, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{left}s"


def short(length):
    """How Grafana writes an interval: `10s`, `1m`, `2h`, `7d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if length % size == 0:
            return f"{int(length // size)}{unit}"
    return f"{int(length)}s"


def escaped(text):
    return re.sub(r"[\\^$*+?.()|\[\]{}/]", lambda found: "\\" + found.group(), text)


def with_variables(text, chosen, everything):
    """Replaces `${name}`, `${name:regex}`, `$name`. `chosen`: name → list of values, or None for "All"."""

    def one(found):
        name, form = found.group("braced") or found.group("plain"), found.group("form")
        if name not in chosen:
            return found.group()
        picked = chosen[name]
        if picked is None:
            return everything[name]
        if form == "regex":
            return escaped(picked[0]) if len(picked) == 1 else "(" + "|".join(map(escaped, picked)) + ")"
        if form is None and len(picked) == 1:
            return picked[0]
        raise ValueError(f"several values of ${name} have no form in {text!r}")

    return re.sub(r"\$(?:\{(?P<braced>\w+)(?::(?P<form>\w+))?\}|(?P<plain>\w+))", one, text)


def rfc3339(at):
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def influxql(text, start, stop, step):
    text = text.replace("$timeFilter", f"time >= {int(start * 1000)}ms and time <= {int(stop * 1000)}ms")
    text = text.replace("$__from", str(int(start * 1000))).replace("$__to", str(int(stop * 1000)))
    text = text.replace("$interval", short(step)).replace("$__interval_ms", str(int(step * 1000)))
    return text.replace("$__interval", short(step))


def flux(text, start, stop, step, bucket, org):
    values = {
        "timeRangeStart": rfc3339(start), "timeRangeStop": rfc3339(stop), "windowPeriod": go_duration(step),
        "bucket": f'"{bucket}"', "defaultBucket": f'"{bucket}"', "organization": f'"{org}"',
    }
    # Whatever stands before the dot: Grafana does not look for `v`.
    for whole, name in re.findall(r"([a-zA-Z]+\.([a-zA-Z]+))", text):
        if name in values:
            text = text.replace(whole, values[name])
    return text.replace("$__interval_ms", str(int(step * 1000))).replace("$__interval", short(step))
