"""Pieces that boards are made of: queries with what they must return, panels, layout.

A board is a plain description; `board()` turns it into the JSON that Grafana reads. What a query must return (`columns`)
is no part of the JSON: the tests run every query and compare.
"""
from dataclasses import dataclass, field

INFLUXQL = {"type": "influxdb", "uid": "tidewatch-influxql"}
FLUX = {"type": "influxdb", "uid": "tidewatch-flux"}
LONG = {"type": "influxdb", "uid": "tidewatch-long-influxql"}

# One colour for one meaning, on every board.
STATUS = {"2xx": "green", "3xx": "blue", "4xx": "orange", "5xx": "red"}
SEVERITY = {"critical": "dark-red", "high": "red", "medium": "orange", "low": "yellow", "info": "blue"}
LOG_SEVERITY = {
    "emerg": "dark-purple", "alert": "purple", "crit": "dark-red", "error": "red", "warn": "orange",
    "notice": "yellow", "info": "blue", "debug": "light-blue", "trace": "super-light-blue", "none": "text",
}


@dataclass
class Query:
    """A query of a panel, and what it returns: columns besides time, and the tags its series carry."""

    text: str
    columns: list
    tags: list = field(default_factory=list)
    source: dict = field(default_factory=lambda: INFLUXQL)
    alias: str = ""
    table: bool = False

    @property
    def is_flux(self):
        return self.source == FLUX

    def json(self, ref):
        out = {"refId": ref, "datasource": self.source, "query": self.text}
        if not self.is_flux:
            out |= {"rawQuery": True, "resultFormat": "table" if self.table else "time_series"}
            if self.alias:
                out["alias"] = self.alias
        return out


def flux(text, columns):
    """Flux that gives one table, ungrouped: what it groups by would be labels in Grafana, not columns."""
    return Query(text.strip(), columns, source=FLUX)


def largest(number, *columns):
    """The rows with the largest values, largest first. Not `sort(desc: true) |> limit`, nor `top`: InfluxDB 2.7 makes one step
    of the two, which loses rows (53 of 56 seen).
    """
    by = ", ".join(f'"{column}"' for column in columns)
    return f"""
    |> sort(columns: [{by}])
    |> tail(n: {number})
    |> sort(columns: [{by}], desc: true)
"""


def flux_series(text, tags):
    """Flux that gives a series for each of these tags' values: `_time` and `_value`."""
    return Query(text.strip(), ["_time", "_value"], tags=tags, source=FLUX)


@dataclass
class Panel:
    title: str
    kind: str
    description: str
    queries: list
    width: int
    height: int = 8
    unit: str = "short"
    interval: str = "10s"
    options: dict = field(default_factory=dict)
    custom: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)
    overrides: list = field(default_factory=list)
    transformations: list = field(default_factory=list)
    links: list = field(default_factory=list)
    newest: str = ""  # only this much of a range that ends now

    def json(self, number, x, y):
        defaults = {"unit": self.unit} | self.defaults
        if self.custom:
            defaults["custom"] = self.custom
        out = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": defaults, "overrides": self.overrides},
            "options": self.options,
        }
        if self.queries:
            out |= {
                "datasource": self.queries[0].source,
                "interval": self.interval,
                "targets": [query.json(chr(ord("A") + n)) for n, query in enumerate(self.queries)],
            }
        if self.newest:
            out |= {"timeFrom": self.newest, "hideTimeOverride": True}
        if self.transformations:
            out["transformations"] = self.transformations
        if self.links:
            out["links"] = self.links
        return out


@dataclass
class Row:
    """A heading; the panels after it belong to it."""

    title: str


def steps(*pairs):
    """Thresholds: the first colour holds from minus infinity; then (from, colour)."""
    first, *others = pairs
    rest = [{"value": at, "color": colour} for at, colour in others]
    return {"mode": "absolute", "steps": [{"value": None, "color": first}, *rest]}


def override(name, **properties):
    """An override of the field with this name; `__` in a property's name is a dot."""
    items = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": items}


def colours(table):
    return [override(name, color={"mode": "fixed", "fixedColor": colour}) for name, colour in table.items()]


def graph(title, description, queries, width=12, height=8, unit="short", stacked=False, bars=False, legend="table", **rest):
    """Lines over time (or bars), with a shared crosshair and a sorted tooltip."""
    custom = {
        "drawStyle": "bars" if bars else "line",
        "lineInterpolation": "linear",
        "lineWidth": 0 if bars else 1,
        "fillOpacity": 80 if bars else (40 if stacked else 8),
        "gradientMode": "none",
        "showPoints": "never" if bars or stacked else "auto",
        "pointSize": 4,
        "spanNulls": False if bars else 60000,
        "stacking": {"mode": stacked if isinstance(stacked, str) else ("normal" if stacked else "none"), "group": "A"},
        "axisSoftMin": 0,
    } | rest.pop("custom", {})
    calculations = rest.pop("calculations", ["lastNotNull", "max"])
    options = {
        "legend": {"displayMode": legend, "placement": "bottom", "showLegend": True, "calcs": calculations},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"color": {"mode": "palette-classic"}} | rest.pop("defaults", {})
    return Panel(title, "timeseries", description, queries, width, height, unit, options=options, custom=custom, defaults=defaults, **rest)


def limits(thresholds, **defaults):
    """Thresholds as dashed lines, for a graph."""
    return {"defaults": defaults | {"thresholds": thresholds}, "custom": {"thresholdsStyle": {"mode": "dashed"}}}


def tile(title, description, query, thresholds, width=4, height=4, unit="short", reduce="lastNotNull", sparkline=True, **rest):
    """One number, coloured by its thresholds, with the course of the range behind it."""
    options = {
        "reduceOptions": {"calcs": [reduce], "fields": rest.pop("fields", ""), "values": False},
        "colorMode": "value",
        "graphMode": "area" if sparkline else "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "value",
        "wideLayout": True,
        "showPercentChange": False,
    }
    defaults = {"thresholds": thresholds, "color": {"mode": "thresholds"}, "noValue": "–"} | rest.pop("defaults", {})
    return Panel(title, "stat", description, [query], width, height, unit, options=options, defaults=defaults, **rest)


def table(title, description, query, order, width=24, height=9, names=None, overrides=(), sort=None, interval="10s", filterable=True, **rest):
    """A table: columns in this order, under these names; what is not named is hidden."""
    hidden = {name: True for name in ["Time", "time", "_time", *query.columns, *query.tags] if name not in order}
    organize = {
        "excludeByName": hidden,
        "indexByName": {name: place for place, name in enumerate(order)},
        "renameByName": {name: words for name, words in (names or {}).items() if name in order},
        "includeByName": {},
    }
    shown = lambda name: (names or {}).get(name, name)
    options = {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "countRows": False}}
    if sort:
        options["sortBy"] = [{"displayName": shown(sort.lstrip("-")), "desc": sort.startswith("-")}]
    custom = {"align": "auto", "inspect": False, "filterable": filterable, "cellOptions": {"type": "auto"}}
    return Panel(
        title, "table", description, [query], width, height, options=options, custom=custom, overrides=list(overrides),
        transformations=[{"id": "organize", "options": organize}], interval=interval, **rest,
    )


def values(table_of):
    """Value mappings: text in a colour."""
    options = {text: {"text": text, "color": colour, "index": n} for n, (text, colour) in enumerate(table_of.items())}
    return [{"type": "value", "options": options}]


def coloured(table_of):
    return {"mappings": values(table_of), "custom__cellOptions": {"type": "color-text"}}


SHARE = {"unit": "percentunit", "decimals": 1, "max": 1, "min": 0}
SHARE_CELL = SHARE | {
    "thresholds": steps("green", (0.01, "yellow"), (0.05, "red")),
    "custom__cellOptions": {"type": "color-text"},
}


def link(title, url):
    return {"title": title, "url": url, "targetBlank": True}


# ---- variables ----


def tag_values(name, label, text, description, hide=0):
    """A variable with all values of a tag; several may be chosen."""
    return {
        "type": "query", "name": name, "label": label, "description": description, "datasource": INFLUXQL,
        "query": text, "refresh": 2, "sort": 1, "regex": "", "multi": True, "includeAll": True,
        "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}, "options": [], "hide": hide, "skipUrlSync": False,
    }


def choices(name, label, words, description):
    return {
        "type": "custom", "name": name, "label": label, "description": description, "query": ",".join(words),
        "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
        "options": [], "hide": 0, "skipUrlSync": False,
    }


def constant(name, value, description):
    current = {"text": value, "value": value}
    return {"type": "constant", "name": name, "label": name, "description": description, "query": value, "hide": 2, "skipUrlSync": True, "current": current, "options": [current | {"selected": True}]}


HOST = tag_values(
    "host", "Host", 'SHOW TAG VALUES FROM "http_stats" WITH KEY = "host"', "Hosts that log; `other` are those beyond windows.max_hosts."
)
RULE = tag_values("rule", "Rule", 'SHOW TAG VALUES FROM "anomaly" WITH KEY = "rule"', "Rules that found something.")


def alert_marks(enabled=True, rules="r.rule =~ /.*/"):
    """Alerts of Tidewatch as marks on the graphs: from the first finding to the end of the last."""
    text = f"""
from(bucket: v.defaultBucket)
    |> range(start: v.timeRangeStart, stop: v.timeRangeStop)
    |> filter(fn: (r) => r._measurement == "anomaly" and {rules} and (r.host == "*" or r.host =~ /^${{host:regex}}$/))
    |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
    |> filter(fn: (r) => r.state == "firing" and (r.severity == "medium" or r.severity == "high" or r.severity == "critical"))
    |> map(fn: (r) => ({{r with end: time(v: int(v: r._time) + r.window_ms * 1000000)}}))
    |> group(columns: ["id", "rule", "severity", "subject"])
    |> reduce(
        identity: {{time: 2200-01-01T00:00:00Z, timeEnd: 1970-01-01T00:00:00Z, text: ""}},
        fn: (r, accumulator) =>
            ({{
                time: if r._time < accumulator.time then r._time else accumulator.time,
                timeEnd: if r.end > accumulator.timeEnd then r.end else accumulator.timeEnd,
                text: r.message,
            }}),
    )
    |> group()
    |> map(fn: (r) => ({{time: r.time, timeEnd: r.timeEnd, title: r.rule + " " + r.severity, text: r.text, tags: r.rule + "," + r.severity, id: r.id}}))
    |> sort(columns: ["time"])
    |> tail(n: 200)
"""
    query = flux(text, ["time", "timeEnd", "title", "text", "tags", "id"])
    mark = {
        "name": "Tidewatch alerts", "datasource": FLUX, "enable": enabled, "hide": False, "iconColor": "red",
        "target": {"refId": "Anno", "query": query.text, "limit": 100, "matchAny": False, "tags": [], "type": "tags"},
    }
    return mark, query


# ---- boards ----


@dataclass
class Board:
    uid: str
    title: str
    description: str
    variables: list
    parts: list
    marks: list = field(default_factory=list)
    time: str = "now-1h"
    refresh: str = "10s"

    def panels(self):
        """Panels with their ids, in reading order: ids stay while panels are added at the end."""
        return [(number, part) for number, part in enumerate(self.parts, 1) if isinstance(part, Panel)]

    def number(self, title):
        return next(number for number, panel in self.panels() if panel.title == title)

    def layout(self):
        x = y = tallest = 0
        for number, part in enumerate(self.parts, 1):
            wide = 24 if isinstance(part, Row) else part.width
            tall = 1 if isinstance(part, Row) else part.height
            if x + wide > 24:
                x, y, tallest = 0, y + tallest, 0
            if isinstance(part, Row):
                yield {"id": number, "type": "row", "title": part.title, "collapsed": False, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []}
            else:
                yield part.json(number, x, y)
            x, tallest = x + wide, max(tallest, tall)

    def json(self, page):
        own = {
            "asDropdown": False, "icon": "external link", "includeVars": False, "keepTime": False, "tags": [], "targetBlank": True,
            "title": "Tidewatch's page", "tooltip": "Live figures, single requests, evidence", "type": "link", "url": "${page}/",
        }
        boards = own | {
            "icon": "dashboard", "includeVars": True, "keepTime": True, "tags": ["tidewatch"], "targetBlank": False,
            "title": "Tidewatch", "tooltip": "The other boards, with the same time and host", "type": "dashboards", "url": "",
        }
        address = constant("page", page, "Where Tidewatch's own page answers; build.py --page changes it.")
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["tidewatch"],
            "timezone": "browser",
            "editable": False,
            "graphTooltip": 1,
            "schemaVersion": 39,
            "version": 1,
            "refresh": self.refresh,
            "time": {"from": self.time, "to": "now"},
            # A window's number is complete when it has ended and late lines had their chance.
            "timepicker": {"nowDelay": "15s", "refresh_intervals": ["10s", "30s", "1m", "5m", "15m", "1h"]},
            "templating": {"list": [*self.variables, address]},
            "annotations": {"list": [mark for mark, _ in self.marks]},
            "links": [boards, own],
            "panels": list(self.layout()),
        }
