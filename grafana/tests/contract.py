"""Which measurements, tags and fields a query names, against `influx/schema.toml`."""
import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NUMBERS = {"integer", "float"}
# Functions of InfluxQL that take numbers only.
NUMERIC = {"sum", "mean", "max", "min", "spread", "median", "stddev", "percentile", "non_negative_derivative", "non_negative_difference", "derivative"}
FLUX_OWN = {"_time", "_value", "_field", "_measurement", "_start", "_stop"}


def schema():
    """Measurement → (tags, fields with their types), of both buckets."""
    with open(ROOT / "influx/schema.toml", "rb") as file:
        text = tomllib.load(file)
    return {
        name: (set(what["tags"]), {field: f["type"] for field, f in what["fields"].items()})
        for kind in ("measurement", "long")
        for name, what in text.get(kind, {}).items()
    }


def faults(query, is_flux, contract):
    """What a query names that is not in the contract, or uses as what it is not."""
    return flux_faults(query, contract) if is_flux else influxql_faults(query, contract)


def known(measurements, contract):
    tags, fields, out = set(), {}, []
    for name in measurements:
        if name not in contract:
            out.append(f"there is no measurement {name}")
            continue
        tags |= contract[name][0]
        fields |= contract[name][1]
    return tags, fields, out if measurements else ["it names no measurement"]


def influxql_faults(query, contract):
    # Texts and regular expressions hold no names.
    bare = re.sub(r"=~ /(?:\\.|[^/])*/|!~ /(?:\\.|[^/])*/|'[^']*'", "", query)
    measurements = set(re.findall(r'\bFROM "([^"]+)"', bare))
    tags, fields, out = known(measurements, contract)
    if found := re.fullmatch(r'SHOW TAG VALUES FROM "[^"]+" WITH KEY = "([^"]+)"', bare.strip()):
        return out + ([] if found[1] in tags else [f"{found[1]} is no tag"])
    aliases = set(re.findall(r'\bAS "([^"]+)"', bare))
    for name in set(re.findall(r'"([^"]+)"', bare)) - measurements - aliases - tags - set(fields):
        out.append(f"there is neither tag nor field {name}")
    for name in set(re.findall(r'"([^"]+)"', bare)) & tags & aliases:
        out.append(f"{name} is a tag and may not name a result")
    for name in re.findall(r'"([^"]+)"', " ".join(groups(bare))):
        if name not in tags:
            out.append(f"it groups by {name}, which is no tag")
    for function, name in re.findall(r'\b(\w+)\("([^"]+)"', bare):
        # An alias of an inner query is a number here.
        if function in NUMERIC and name not in aliases and fields.get(name) not in NUMBERS:
            out.append(f"{function} of {name}, which is no number")
    return out


def groups(query):
    """What stands behind each GROUP BY, up to `fill` or the end of its SELECT."""
    for place in re.finditer(r"\bGROUP BY ", query):
        depth = 0
        for end, letter in enumerate(query[place.end():], place.end()):
            depth += (letter == "(") - (letter == ")")
            if depth < 0 or query.startswith("fill(", end):
                break
        else:
            end = len(query)
        yield query[place.end():end]


def flux_faults(query, contract):
    bare = re.sub(r"//.*", "", query)
    measurements = set(re.findall(r'r\._measurement == "([^"]+)"', bare))
    tags, fields, out = known(measurements, contract)
    computed = set(re.findall(r"\b(\w+):", bare))
    for name in set(re.findall(r'r\._field == "([^"]+)"', bare)) - set(fields):
        out.append(f"there is no field {name}")
    named = set(re.findall(r"\br\.(\w+)", bare))
    for several in re.findall(r"\b(?:columns|rowKey|columnKey): \[([^\]]*)\]", bare):
        named |= set(re.findall(r'"([^"]+)"', several))
    named |= set(re.findall(r'\b(?:column|valueColumn): "([^"]+)"', bare))
    renamed = set(re.findall(r'rename\(columns: \{\w+: "(\w+)"\}\)', bare))
    for name in named - tags - set(fields) - computed - renamed - FLUX_OWN:
        out.append(f"there is neither tag nor field {name}")
    return out
