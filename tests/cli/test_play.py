"""`vladva play` serves the playground to this computer only."""

import http.client
import json
import threading

import pytest

from vladva_kit.cli.play import page_server


class FakePage:
    def html(self, endpoint):
        return f"<p>{endpoint}</p>"

    def handle(self, message):
        return {"id": message["id"]}


@pytest.fixture
def ask():
    with page_server(FakePage()) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()

        def request(method, path, body=None, **headers):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()

        yield request
        server.shutdown()
        thread.join()


def test_the_page_is_served_and_its_messages_are_answered(ask):
    assert ask("GET", "/") == (200, b"<p>message</p>")
    status, body = ask("POST", "/message", json.dumps({"id": 5}), Content_Type="application/json")
    assert (status, json.loads(body)) == (200, {"id": 5})


@pytest.mark.parametrize(
    "status, method, path, body, headers",
    [
        (404, "GET", "/../pyproject.toml", None, {}),
        (403, "GET", "/", None, {"Host": "evil.example:80"}),
        (403, "POST", "/message", "{}", {"Host": "evil.example", "Content_Type": "application/json"}),
        (404, "POST", "/message", "{}", {"Content_Type": "text/plain"}),  # what another site can send
        (400, "POST", "/message", "{", {"Content_Type": "application/json"}),
        (413, "POST", "/message", "", {"Content_Type": "application/json", "Content_Length": str(2**40)}),
    ],
)
def test_other_requests_are_refused(ask, status, method, path, body, headers):
    assert ask(method, path, body, **headers)[0] == status
