"""A real InfluxDB as Grafana's data source asks it: InfluxQL at /query, Flux at /api/v2/query. Standard library only."""
import csv
import io
import json
import urllib.error
import urllib.parse
import urllib.request


class Refused(Exception):
    """The server's own words."""


class Server:
    def __init__(self, url, org, token):
        self.url, self.org, self.token = url.rstrip("/"), org, token

    def send(self, method, path, body=None, kind="application/json", **query):
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.url}{path}?{urllib.parse.urlencode(query)}", data=data, method=method)
        asked.add_header("Authorization", f"Token {self.token}")
        asked.add_header("Content-Type", kind)
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            raise Refused(f"{error.code}: {error.read().decode()[:600]}") from None

    def get(self, path, **query):
        return json.loads(self.send("GET", path, **query))

    def write(self, bucket, lines):
        self.send("POST", "/api/v2/write", "\n".join(lines).encode(), "text/plain", org=self.org, bucket=bucket, precision="ms")

    def influxql(self, database, text):
        """Series: [(tags, columns, rows)]."""
        body = urllib.parse.urlencode({"q": text}).encode()
        answer = json.loads(self.send("POST", "/query", body, "application/x-www-form-urlencoded", db=database, epoch="ms"))
        out = []
        for result in answer["results"]:
            if "error" in result:
                raise Refused(result["error"])
            out += [(series.get("tags", {}), series["columns"], series["values"]) for series in result.get("series", [])]
        return out

    def flux(self, text):
        """Tables: [(group columns, columns, rows as dictionaries)], without the columns every answer has."""
        dialect = {"annotations": ["datatype", "group", "default"], "delimiter": ",", "header": True}
        answer = self.send("POST", "/api/v2/query", {"query": text, "type": "flux", "dialect": dialect}, org=self.org)
        out, kinds, grouped, header, last = [], [], [], None, None
        for cells in csv.reader(io.StringIO(answer)):
            if not cells:
                header = None
            elif cells[0] == "#datatype":
                kinds, header = cells, None
            elif cells[0] == "#group":
                grouped = cells
            elif cells[0] == "#default":
                default = cells
            elif header is None:
                header, last = cells, None
                if "error" in header and "reference" in header:
                    raise Refused("the query failed half way")
            else:
                if "error" in header and "reference" in header:
                    raise Refused(cells[header.index("error")])
                row = {name: value for name, value in zip(header, cells) if name not in ("", "result", "table")}
                table = (cells[1] or default[1], cells[2])
                if table != last:
                    out.append((
                        [name for name, group in zip(header, grouped) if group == "true" and name not in ("", "result", "table")],
                        [name for name in header if name not in ("", "result", "table")], [],
                    ))
                    last = table
                out[-1][2].append({name: converted(row[name], kind) for name, kind in zip(header, kinds) if name in row})
        return out


def converted(text, kind):
    if text == "" and kind != "string":
        return None
    if kind in ("long", "unsignedLong"):
        return int(text)
    if kind == "double":
        return float(text)
    return text
