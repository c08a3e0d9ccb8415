"""An HTTP client for the tests: one request, one reply, nothing hidden."""

import http.client
import json


class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def type(self):
        return (self.headers.get("Content-Type") or "").split(";")[0]

    @property
    def reason(self):
        return self.json["reason"]

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


class Rest:
    """Requests to one server; `body` may be bytes, or anything that JSON knows."""

    def __init__(self, address, timeout=20):
        self.address = address
        self.timeout = timeout

    def ask(self, method, path, body=None, headers=None, timeout=None):
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, bytearray)):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(self.address, timeout=timeout or self.timeout)
        try:
            connection.putrequest(method, path, skip_host="Host" in headers,
                                  skip_accept_encoding=True)
            if body is not None:
                headers.setdefault("Content-Length", str(len(body)))
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            if body:
                try:
                    connection.send(body)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # refused before it was read: the reply says why
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.ask("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def put(self, path, body, **headers):
        return self.ask("PUT", path, body,
                        headers={k.replace("_", "-"): v for k, v in headers.items()})

    def post(self, path, body, **headers):
        return self.ask("POST", path, body,
                        headers={k.replace("_", "-"): v for k, v in headers.items()})

    def delete(self, path):
        return self.ask("DELETE", path)
