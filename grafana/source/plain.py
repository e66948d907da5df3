"""Plain YAML of maps, lists, texts, numbers and booleans, for the provisioning files."""
import json
import re

# Words that YAML would take for something else than a text, or that hold what needs quotes.
BARE = re.compile(r"^[A-Za-z$/_][A-Za-z0-9_$./ -]*$")
OTHER = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def scalar(value):
    if isinstance(value, str):
        if BARE.match(value) and value.lower() not in OTHER and not value.endswith(" "):
            return value
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def lines(value, indent):
    pad = "  " * indent
    if isinstance(value, dict):
        for key, item in value.items():
            yield from entry(f"{pad}{key}:", item, indent)
    else:
        for item in value:
            if isinstance(item, dict) and item:
                inner = list(lines(item, indent + 1))
                yield f"{pad}- {inner[0][len(pad) + 2:]}"
                yield from inner[1:]
            else:
                yield from entry(f"{pad}-", item, indent)


def entry(head, item, indent):
    if isinstance(item, (dict, list)):
        if not item:
            yield f"{head} {'{}' if isinstance(item, dict) else '[]'}"
        elif isinstance(item, list) and all(isinstance(x, (str, int, float)) for x in item):
            yield f"{head} [{', '.join(scalar(x) for x in item)}]"
        else:
            yield head
            yield from lines(item, indent + 1)
    elif isinstance(item, str) and "\n" in item:
        yield f"{head} |" + ("" if item.endswith("\n") else "-")
        yield from ("  " * (indent + 1) + line if line else "" for line in item.rstrip("\n").split("\n"))
    else:
        yield f"{head} {scalar(item)}"


def yaml(value):
    return "\n".join(lines(value, 0)) + "\n"
