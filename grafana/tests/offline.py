#!/usr/bin/env python3
"""What can be said of the boards and provisioning files without any server.

They are what the generator makes; they are what Grafana's published schema describes, key by key and type by type; every query
names only what `influx/schema.toml` has; and what refers to something refers to something there. Every check is seen to fail
on a broken copy first.

    grafana/tests/offline.py          needs the packages of requirements.txt (scripts/setup test installs them)
"""
import copy
import enum
import json
import pathlib
import re
import subprocess
import sys
import typing

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT / "source")]

sys.dont_write_bytecode = True
import build
import contract
import macros
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.models import alerting, dashboard, units

plugins.register_default_plugins()
UNITS = {value for name, value in vars(units).items() if not name.startswith("_") and isinstance(value, str)}
# Where the published schema is narrower than what Grafana reads.
BEYOND = {
    "/annotations/list/*/target/query": "an annotation's target is a query of its data source",
    "/annotations/list/*/target/refId": "the same",
}


# ---- the published schema ----


def unknown_keys(given, kept, path=""):
    """Keys and values of a document that a round trip through the schema lost or changed."""
    place = re.sub(r"/\d+", "/*", path)
    if place in BEYOND:
        return
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from unknown_keys(value, kept[key], f"{path}/{key}")
            elif value is not None and f"{place}/{key}" not in BEYOND:
                yield f"{path}/{key}: not in the schema"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept)):
            yield from unknown_keys(one, other, f"{path}/{number}")
    elif given != kept:
        yield f"{path}: {given!r} became {kept!r}"


def fits(value, kind):
    """Whether a value is of a type as the schema's constructors declare it."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is object or kind is typing.Any:
        return True
    if origin is typing.Union:
        return any(fits(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, inner[1]) for one in value.values())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return isinstance(value, kind) or value in [one.value for one in kind]
    return isinstance(value, kind) if isinstance(kind, type) else True


def wrong_types(value, path=""):
    """Attributes of schema objects whose values are not of the declared type."""
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from wrong_types(one, f"{path}/{number}")
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from wrong_types(one, f"{path}/{key}")
    elif type(value).__module__.startswith("grafana_foundation_sdk.") and not isinstance(value, enum.Enum):
        module = sys.modules[type(value).__module__]
        hints = typing.get_type_hints(type(value).__init__, vars(module))
        for name, one in vars(value).items():
            kind = hints.get(name, hints.get(f"{name}_val", object))
            inner = model_of(kind)
            if isinstance(one, list) and inner and all(isinstance(item, dict) for item in one):
                # The package leaves some lists as they are; read them with the model that the type names.
                for number, item in enumerate(one):
                    read = inner.from_json(copy.deepcopy(item))
                    yield from unknown_keys(item, plain(read), f"{path}/{name}/{number}")
                    yield from wrong_types(read, f"{path}/{name}/{number}")
                continue
            if one is not None and not fits(one, kind):
                yield f"{path}/{name}: {one!r} is no {kind}"
            yield from wrong_types(one, f"{path}/{name}")


def model_of(kind):
    """The model of a list's items, where it has one."""
    for one in (kind, *typing.get_args(kind)):
        if typing.get_origin(one) is list and hasattr(typing.get_args(one)[0], "from_json"):
            return typing.get_args(one)[0]
    return None


def plain(value):
    """A schema object as the JSON it stands for."""
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value.value if isinstance(value, enum.Enum) else value


def schema_faults(document):
    try:
        read = dashboard.Dashboard.from_json(copy.deepcopy(document))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return [f"the schema cannot read it: {error!r}"]
    return [*unknown_keys(document, plain(read)), *wrong_types(read)]


# ---- boards ----


def board_faults(document, contracts, uids, sources):
    """What a board promises beyond the schema."""
    out, taken, ids = [], {}, set()
    text = json.dumps(document)
    for panel in document["panels"]:
        name = f"panel {panel['id']} \"{panel['title']}\""
        place = panel["gridPos"]
        if panel["id"] in ids:
            out.append(f"{name}: its id is another's")
        ids.add(panel["id"])
        if place["x"] + place["w"] > 24:
            out.append(f"{name}: wider than the board")
        for cell in [(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])]:
            if taken.setdefault(cell, name) != name:
                out.append(f"{name}: lies over {taken[cell]}")
                break
        if panel["type"] == "row":
            continue
        if len(panel.get("description", "")) < 20:
            out.append(f"{name}: no description")
        if not re.fullmatch(r"\d+[smh]", panel.get("interval", "")):
            out.append(f"{name}: its least interval is no whole number of seconds")
        for unit in [panel["fieldConfig"]["defaults"]["unit"], *(p["value"] for o in panel["fieldConfig"]["overrides"] for p in o["properties"] if p["id"] == "unit")]:
            if unit not in UNITS:
                out.append(f"{name}: there is no unit {unit}")
        for target in panel["targets"]:
            out += [f"{name}: {fault}" for fault in target_faults(target, contracts, sources)]
    for variable in document["templating"]["list"]:
        if variable["type"] == "query":
            out += [f"variable {variable['name']}: {fault}" for fault in target_faults({"datasource": variable["datasource"], "query": variable["query"]}, contracts, sources)]
    for mark in document["annotations"]["list"]:
        out += [f"annotation: {fault}" for fault in target_faults({"datasource": mark["datasource"], "query": mark["target"]["query"]}, contracts, sources)]
    names = {variable["name"] for variable in document["templating"]["list"]}
    used = set(re.findall(r"\$\{(\w+)(?::\w+)?\}", text))
    used -= {name for name in used if name.startswith("__")}
    out += [f"the variable {name} is used and not there" for name in sorted(used - names)]
    out += [f"the variable {name} is there and not used" for name in sorted(names - used)]
    for uid in re.findall(r"/d/([\w-]+)", text):
        if uid not in uids:
            out.append(f"a link leads to {uid}, which is no board")
    return out


def target_faults(target, contracts, sources):
    source = target["datasource"]["uid"]
    if source not in sources:
        return [f"there is no data source {source}"]
    is_flux = sources[source]["jsonData"]["version"] == "Flux"
    out = contract.faults(target["query"], is_flux, contracts)
    if "anomaly" in target["query"] and "_1h" not in target["query"] and "SHOW TAG" not in target["query"] and "firing" not in target["query"]:
        out.append("findings that were withdrawn or are of rules in shadow mode are not left out")
    if is_flux and re.search(r"sort\([^\n]*\n *\|> limit\(|\btop\(", target["query"]):
        out.append("sort and limit together lose rows: use `largest`")
    return out


def described_faults(board, document):
    """Names in tables and overrides that no query gives."""
    out = []
    panels = {panel["id"]: panel for panel in document["panels"]}
    for number, panel in board.panels():
        shown = panels[number]
        given = {column for query in panel.queries for column in [*query.columns, *query.tags]}
        renames = {}
        for step in shown.get("transformations", []):
            renames = step["options"]["renameByName"]
            out += [f"{panel.title}: {name} is ordered or renamed and not there" for name in {*renames, *step["options"]["indexByName"]} - given]
        fields = {renames.get(name, name) for name in given}
        for item in shown["fieldConfig"]["overrides"]:
            name = item["matcher"]["options"]
            by_tag = any(query.alias.startswith("$tag_") for query in panel.queries)
            if name not in fields and not by_tag:
                out.append(f"{panel.title}: an override for {name}, which is not there")
    return out


# ---- provisioning ----

DURATION = re.compile(r"(\d+[smhdw])+")
RULE_KEYS = {"uid", "title", "condition", "data", "noDataState", "execErrState", "for", "dashboardUid", "panelId", "annotations", "labels", "isPaused"}
RECEIVERS = {"email": {"addresses", "singleEmail", "message", "subject"}, "webhook": {"url", "httpMethod", "maxAlerts", "username", "password", "title", "message"}}
SOURCE_KEYS = {"name", "uid", "type", "access", "url", "isDefault", "editable", "jsonData", "secureJsonData"}
REDUCERS = {"last", "max", "min", "mean", "sum", "count", "median", "diff"}


def rule_faults(file, boards, contracts, sources):
    out, uids = [], set()
    for group in file["groups"]:
        out += [f"group: no {key}" for key in ("name", "folder") if not group.get(key, "").strip()]
        if not DURATION.fullmatch(group["interval"]) or macros.seconds(group["interval"]) % 10:
            out.append("group: its interval is no multiple of ten seconds")
        for rule in group["rules"]:
            name = rule.get("title", "?")
            out += [f"{name}: unknown key {key}" for key in set(rule) - RULE_KEYS]
            out += [f"{name}: no {key}" for key in ("uid", "title", "condition", "data") if not rule.get(key)]
            if rule["uid"] in uids or len(rule["uid"]) > 40:
                out.append(f"{name}: its uid is another's or too long")
            uids.add(rule["uid"])
            if not DURATION.fullmatch(rule["for"]):
                out.append(f"{name}: for is no length of time")
            if rule["noDataState"] not in ("OK", "NoData", "Alerting", "KeepLast") or rule["execErrState"] not in ("OK", "Error", "Alerting", "KeepLast"):
                out.append(f"{name}: a state that Grafana does not know")
            panels = {panel["id"] for panel in boards.get(rule["dashboardUid"], {"panels": []})["panels"]}
            if rule["panelId"] not in panels:
                out.append(f"{name}: its panel is not there")
            api = {key: value for key, value in rule.items() if key not in ("dashboardUid", "panelId")} | {"folderUID": "f", "ruleGroup": group["name"], "orgID": 1}
            try:
                read = alerting.Rule.from_json(copy.deepcopy(api))
                out += [f"{name}: {fault}" for fault in [*unknown_keys(api, plain(read)), *wrong_types(read)]]
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                out.append(f"{name}: the schema cannot read it: {error!r}")
            refs = [step["refId"] for step in rule["data"]]
            if rule["condition"] not in refs or len(set(refs)) != len(refs):
                out.append(f"{name}: its condition is none of its steps")
            for step in rule["data"]:
                model = step["model"]
                if model["refId"] != step["refId"] or model["datasource"]["uid"] != step["datasourceUid"]:
                    out.append(f"{name}: step {step['refId']} and its model differ")
                if step["datasourceUid"] != "__expr__":
                    out += [f"{name}: {fault}" for fault in target_faults(model, contracts, sources)]
                    continue
                if model["expression"] not in refs:
                    out.append(f"{name}: {model['refId']} reads {model['expression']}, which is not there")
                if model["type"] == "reduce" and model["reducer"] not in REDUCERS:
                    out.append(f"{name}: there is no reducer {model['reducer']}")
    return out


def contact_faults(points, policies):
    # No name is built in: which contact point a new Grafana has depends on its version.
    out, names = [], set()
    for point in points["contactPoints"]:
        names.add(point["name"])
        for receiver in point["receivers"]:
            known = RECEIVERS.get(receiver["type"])
            if known is None or not receiver["uid"] or not receiver["settings"]:
                out.append(f"{point['name']}: a receiver without kind, uid or settings")
            else:
                out += [f"{point['name']}: unknown setting {key}" for key in set(receiver["settings"]) - known]
            api = {**receiver, "name": point["name"]}
            read = alerting.ContactPoint.from_json(copy.deepcopy(api))
            out += [f"{point['name']}: {fault}" for fault in [*unknown_keys(api, plain(read)), *wrong_types(read)]]

    def walk(route):
        if route["receiver"] not in names:
            out.append(f"a policy names {route['receiver']}, which is no contact point")
        out.extend(f"a policy's {key} is no length of time" for key in ("group_wait", "group_interval", "repeat_interval") if key in route and not DURATION.fullmatch(route[key]))
        out.extend(f"a policy compares with {matcher[1]}" for matcher in route.get("object_matchers", []) if matcher[1] not in ("=", "!=", "=~", "!~"))
        for inner in route.get("routes", []):
            walk(inner)

    for policy in policies["policies"]:
        walk(policy)
        api = {key: value for key, value in policy.items() if key != "orgId"}
        out += list(unknown_keys(api, plain(alerting.NotificationPolicy.from_json(copy.deepcopy(api)))))
    return out


def source_faults(file):
    out = []
    for source in file["datasources"]:
        out += [f"{source['name']}: unknown key {key}" for key in set(source) - SOURCE_KEYS]
        if source["jsonData"]["version"] == "Flux":
            needed = {"organization", "defaultBucket", "version", "timeInterval"}
        else:
            needed = {"dbName", "httpMode", "httpHeaderName1", "version", "timeInterval"}
        if set(source["jsonData"]) != needed:
            out.append(f"{source['name']}: its settings are not {sorted(needed)}")
        if any(not value.endswith("$INFLUX_READ_TOKEN") for value in source["secureJsonData"].values()):
            out.append(f"{source['name']}: a token that is not a variable")
    return out


# ---- all of it ----


def documents():
    boards = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "dashboards").glob("*.json"))}
    provisioned = {str(path.relative_to(ROOT / "provisioning")): yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "provisioning").rglob("*.yaml"))}
    return boards, provisioned


def all_faults(boards, provisioned, contracts):
    out = []
    for path, (content, _) in build.PROVISIONED.items():
        if provisioned.get(path) != content and boards is BOARDS:
            out.append(f"{path}: another reader of YAML reads something else")
    sources = {source["uid"]: source for source in provisioned["datasources/tidewatch.yaml"]["datasources"]}
    for uid, document in boards.items():
        found = schema_faults(document) or [*board_faults(document, contracts, set(boards), sources), *described_faults(build.BOARDS[uid], document)]
        if document["uid"] != uid:
            found.append("its uid is not its file's name")
        out += [f"{uid}: {fault}" for fault in found]
    out += [f"rules: {fault}" for fault in rule_faults(provisioned["alerting/rules.yaml"], boards, contracts, sources)]
    out += contact_faults(provisioned["alerting/contact-points.yaml"], provisioned["alerting/policies.yaml"])
    out += source_faults(provisioned["datasources/tidewatch.yaml"])
    return out


def panel(boards, uid, title):
    return next(panel for panel in boards[uid]["panels"] if panel["title"] == title)


def first_rule(files):
    return files["alerting/rules.yaml"]["groups"][0]["rules"][0]


def replaced(where, key, old, new):
    assert old in where[key], (old, where[key])
    where[key] = where[key].replace(old, new)


# Name, what is broken, what must be said.
BREAKS = [
    ("an unknown key of a panel", lambda b, p: panel(b, "tidewatch-http", "Requests").update(colour="red"), "colour: not in the schema"),
    ("an unknown option", lambda b, p: panel(b, "tidewatch-http", "Latency")["options"].update(zoom=True), "zoom: not in the schema"),
    ("an unknown choice", lambda b, p: panel(b, "tidewatch-http", "Latency")["options"]["tooltip"].update(mode="both"), "both"),
    ("a text for a number", lambda b, p: panel(b, "tidewatch-http", "Latency")["gridPos"].update(w="12"), "12"),
    ("an unknown unit", lambda b, p: panel(b, "tidewatch-http", "Latency")["fieldConfig"]["defaults"].update(unit="millis"), "there is no unit millis"),
    ("a field that is not there", lambda b, p: replaced(panel(b, "tidewatch-http", "Latency")["targets"][1], "query", "latency_p50", "latency_p51"), "neither tag nor field latency_p51"),
    ("a field as group", lambda b, p: replaced(panel(b, "tidewatch-http", "Requests by host")["targets"][0], "query", ', "host"', ', "requests"'), "groups by requests"),
    ("the sum of a text", lambda b, p: replaced(panel(b, "tidewatch-anomalies", "Strongest")["targets"][0], "query", 'max("score")', 'max("subject")'), "max of subject"),
    ("a measurement that is not there", lambda b, p: replaced(panel(b, "tidewatch-top", "URLs")["targets"][0], "query", '"top_paths"', '"top_urls"'), "no measurement top_urls"),
    ("a field of Flux that is not there", lambda b, p: replaced(panel(b, "tidewatch-top", "Slow URLs")["targets"][0], "query", "r.latency_p95", "r.latency"), "neither tag nor field latency"),
    ("withdrawn findings", lambda b, p: replaced(panel(b, "tidewatch-anomalies", "Subjects")["targets"][0], "query", "\"state\" = 'firing' AND ", ""), "findings that were withdrawn"),
    ("sort and limit", lambda b, p: replaced(panel(b, "tidewatch-top", "URLs")["targets"][0], "query", "|> tail(", "|> limit("), "lose rows"),
    ("panels over each other", lambda b, p: panel(b, "tidewatch-http", "Latency")["gridPos"].update(x=6), "lies over"),
    ("a panel without description", lambda b, p: panel(b, "tidewatch-http", "Latency").update(description=""), "no description"),
    ("an interval of half seconds", lambda b, p: panel(b, "tidewatch-http", "Latency").update(interval="500ms"), "no whole number of seconds"),
    ("a variable that is not there", lambda b, p: replaced(panel(b, "tidewatch-http", "Hosts")["targets"][0], "query", "${host:regex}", "${server:regex}"), "server is used and not there"),
    ("a link to nowhere", lambda b, p: panel(b, "tidewatch-http", "Anomalies")["links"][0].update(url="/d/tidewatch-findings"), "which is no board"),
    ("a data source that is not there", lambda b, p: panel(b, "tidewatch-http", "Latency")["targets"][0]["datasource"].update(uid="influx"), "no data source influx"),
    ("an override of nothing", lambda b, p: panel(b, "tidewatch-http", "Hosts")["fieldConfig"]["overrides"][1]["matcher"].update(options="Rate"), "override for Rate"),
    ("a rule without panel", lambda b, p: first_rule(p).update(panelId=999), "its panel is not there"),
    ("a rule with an unknown key", lambda b, p: first_rule(p).update(threshold=5), "unknown key threshold"),
    ("a rule whose condition is no step", lambda b, p: first_rule(p).update(condition="D"), "none of its steps"),
    ("a rule with half a length", lambda b, p: first_rule(p).update({"for": "soon"}), "for is no length"),
    ("a contact point of no kind", lambda b, p: p["alerting/contact-points.yaml"]["contactPoints"][0]["receivers"][0]["settings"].update(adress="x"), "unknown setting adress"),
    ("a policy to nobody", lambda b, p: p["alerting/policies.yaml"]["policies"][0].update(receiver="ops"), "which is no contact point"),
    ("the contact point of an older Grafana", lambda b, p: p["alerting/policies.yaml"]["policies"][0].update(receiver="grafana-default-email"), "which is no contact point"),
    ("a token in the file", lambda b, p: p["datasources/tidewatch.yaml"]["datasources"][0]["secureJsonData"].update(httpHeaderValue1="Token abc"), "not a variable"),
]

BOARDS, PROVISIONED = documents()


def main():
    failed = 0

    def say(name, found):
        nonlocal failed
        failed += bool(found)
        print(f"{'FAILED' if found else 'ok'}  {name}")
        for fault in found[:40]:
            print(f"        {fault}")

    contracts = contract.schema()
    made = subprocess.run([sys.executable, ROOT / "source/build.py", "--check"], capture_output=True, text=True)
    say("the files are what the generator makes", (made.stdout + made.stderr).splitlines() if made.returncode else [])
    say("boards, rules, contact points, policies and data sources are in order", all_faults(BOARDS, PROVISIONED, contracts))
    for name, breaks, want in BREAKS:
        boards, provisioned = copy.deepcopy(BOARDS), copy.deepcopy(PROVISIONED)
        breaks(boards, provisioned)
        found = all_faults(boards, provisioned, contracts)
        say(f"found: {name}", [] if any(want in fault for fault in found) else [f"nothing says \"{want}\": {found}"])
    print(f"{2 + len(BREAKS) - failed} passed, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
