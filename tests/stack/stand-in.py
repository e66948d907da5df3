#!/usr/bin/env python3
"""Answers what scripts/smoke asks Grafana and Nginx, on a free port that it prints. `tests/stack/live` starts it.

$STAND_IN is a directory: `password` is that of the user admin, as it is at the start; the paths in `broken`, a line each, are
answered with an error.
"""
import base64
import http.server
import os
import pathlib

HERE = pathlib.Path(os.environ["STAND_IN"])
LOGIN = "Basic " + base64.b64encode(b"admin:" + (HERE / "password").read_bytes()).decode()


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        broken = HERE / "broken"
        if self.path.startswith(("/api/datasources/", "/api/dashboards/")) and self.headers["Authorization"] != LOGIN:
            code, body = 401, "no such user"
        elif broken.exists() and self.path in broken.read_text().split():
            code, body = (400, "no such bucket") if "datasources" in self.path else (404, "not found")
        else:
            code, body = 200, "{}"
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
print(server.server_address[1], flush=True)
server.serve_forever()
