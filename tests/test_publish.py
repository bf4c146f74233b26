"""runtime.publish against a real broker (mosquitto) and a real web server that fails, hangs, goes and comes back."""

import base64
import contextlib
import getpass
import http.server
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from runtime.bundle import Bundle
from runtime.events import Event
from runtime.outputs import OutputError
from runtime.publish import NOTHING, Mqtt, Webhook, discovery_config

PATIENCE_S = 60  # a machine may be busy; what has not come by then never will
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def event(n, end_s=None, label="bark", p=0.75):
    return Event(label, float(n), end_s, n + 1.0, p)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(done):
    ends_at = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < ends_at, "it never came"
        time.sleep(0.01)


def wait_for_port(port):
    def answers():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True

    wait_for(answers)


class Broker:
    """mosquitto on a free port, with extra lines of configuration."""

    def __init__(self, folder, *lines):
        self.port, self._folder = free_port(), folder
        user = f"user {getpass.getuser()}"  # started by root it would become one who may not read the folder
        text = [user, f"listener {self.port} 127.0.0.1", *(lines or ["allow_anonymous true"])]
        (folder / "mosquitto.conf").write_text("\n".join(text) + "\n")
        self.start()

    def start(self):
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._folder / "mosquitto.conf"], stderr=subprocess.DEVNULL)
        wait_for_port(self.port)

    def kill(self):
        self._process.kill()
        self._process.wait()


class Listener:
    """All messages of a broker, in order: (topic, text, retained)."""

    def __init__(self, port, **login):
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages, self._client, subscribed = [], Client(CallbackAPIVersion.VERSION2), threading.Event()
        if login:
            self._client.username_pw_set(**login)
        self._client.on_message = lambda _c, _d, m: self.messages.append((m.topic, m.payload.decode(), m.retain))
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(PATIENCE_S)

    def texts(self, topic):
        return [text for at, text, _ in self.messages if at == topic]

    def wait(self, topic, text):
        wait_for(lambda: text in self.texts(topic))

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture()
def broker(tmp_path):
    pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt: pip install tinyear[events]")
    if not MOSQUITTO:
        pytest.skip("needs a broker: apt install mosquitto")
    broker = Broker(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture(scope="module")
def bundle(small_bundle):
    return Bundle.load(small_bundle)


@pytest.fixture()
def opened():
    """Outputs and listeners, closed at the end whatever happens."""
    with contextlib.ExitStack() as stack:
        yield lambda each: stack.callback(each.close) and each


def test_a_broker_hears_events_state_and_availability(broker, bundle, opened):
    listener = opened(Listener(broker.port))
    output = opened(Mqtt(f"mqtt://127.0.0.1:{broker.port}", bundle))
    listener.wait("tinyear/small/state", NOTHING)
    sent = [event(1), event(2, label="hum", p=0.9), event(2, 3.0, "hum", 0.9), event(1, 4.0)]
    states = []
    for each in sent:
        n_heard = len(listener.texts("tinyear/small/state"))
        output.event(each)
        wait_for(lambda n_heard=n_heard: len(listener.texts("tinyear/small/state")) > n_heard)
        states.append(listener.texts("tinyear/small/state")[-1])
    assert states == ["bark", "hum", "bark", NOTHING]  # the surest one that lasts
    assert listener.texts("tinyear/small/event") == [each.to_json() for each in sent]
    late = opened(Listener(broker.port))  # retained: who comes later knows the state, and no event of old
    late.wait("tinyear/small/availability", "online")
    late.wait("tinyear/small/state", NOTHING)
    (identity,) = discovery_of(bundle)["device"]["identifiers"]
    late.wait(f"homeassistant/device/{identity}/config", json.dumps(discovery_of(bundle)))
    assert not late.texts("tinyear/small/event") and all(retained for *_, retained in late.messages)
    output.close()
    listener.wait("tinyear/small/availability", "offline")
    assert output.unsent == 0


def discovery_of(bundle):
    return discovery_config("tinyear/small", bundle)


def test_a_topic_of_one_s_own_and_no_discovery(broker, bundle, opened):
    listener = opened(Listener(broker.port))
    opened(Mqtt(f"mqtt://127.0.0.1:{broker.port}/house/cellar", bundle, discovery=""))
    listener.wait("house/cellar/state", NOTHING)
    assert {topic for topic, *_ in listener.messages} == {"house/cellar/state", "house/cellar/availability"}


def test_the_broker_says_it_when_a_stream_vanishes(broker, small_bundle, opened):
    code = (
        "import sys, time; from runtime.bundle import Bundle; from runtime.publish import Mqtt\n"
        "Mqtt(sys.argv[1], Bundle.load(sys.argv[2])); time.sleep(600)"
    )
    listener = opened(Listener(broker.port))
    process = subprocess.Popen([sys.executable, "-c", code, f"mqtt://127.0.0.1:{broker.port}", small_bundle])
    try:
        listener.wait("tinyear/small/availability", "online")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    listener.wait("tinyear/small/availability", "offline")


def test_events_of_an_outage_wait_for_the_broker_and_the_oldest_give_way(broker, bundle, opened):
    said = []
    output = opened(Mqtt(f"mqtt://127.0.0.1:{broker.port}", bundle, say=said.append))
    output.n_waiting = 20
    output.event(event(0))
    wait_for(lambda: not output._busy and not output._jobs and not output._away)
    broker.kill()
    wait_for(lambda: output._away)
    for n in range(1, 50):
        output.event(event(n))
    output.event(event(49, 50.0))
    assert len(said) == 1 and "is gone" in said[0]
    broker.start()
    listener = opened(Listener(broker.port))
    listener.wait("tinyear/small/event", event(49, 50.0).to_json())
    wait_for(lambda: not output._busy)
    heard = [(row["start_s"], row["end_s"]) for row in map(json.loads, listener.texts("tinyear/small/event"))]
    late = [(float(n), None) for n in range(31, 50)] + [(49.0, 50.0)]
    assert heard[-20:] == late  # 19 and the last one waited; before them at most the one that was under way
    assert len(heard) <= 21
    assert output.unsent == 50 - len(heard) and listener.texts("tinyear/small/state")[-1] == NOTHING
    wait_for(lambda: len(said) == 2)
    assert "works again" in said[1]


def test_a_broker_that_comes_later_than_the_stream(broker, bundle, opened):
    broker.kill()
    said = []
    output = opened(Mqtt(f"mqtt://127.0.0.1:{broker.port}", bundle, say=said.append))
    output.event(event(1))
    wait_for(lambda: said)
    reason = "the broker is not reached (Connection refused); events wait, trying again"
    assert said == [f"mqtt 127.0.0.1:{broker.port}: {reason}"]
    broker.start()
    listener = opened(Listener(broker.port))
    listener.wait("tinyear/small/event", event(1).to_json())
    listener.wait("tinyear/small/state", "bark")
    output.close()
    assert output.unsent == 0


def test_a_short_stream_waits_for_the_first_connection(broker, bundle, opened):
    listener = opened(Listener(broker.port))
    for n in range(20):
        output = Mqtt(f"mqtt://127.0.0.1:{broker.port}", bundle)
        output.event(event(n))
        output.close()
        assert output.unsent == 0
    listener.wait("tinyear/small/event", event(19).to_json())
    assert listener.texts("tinyear/small/event") == [event(n).to_json() for n in range(20)]


def test_an_event_waits_until_the_broker_was_greeted(broker, bundle, monkeypatch):
    """Sent between socket and CONNECT it would be the first packet, at which a broker hangs up."""
    from paho.mqtt.client import Client

    greet = Client._send_connect

    def late(client, keepalive):
        time.sleep(0.3)
        return greet(client, keepalive)

    monkeypatch.setattr(Client, "_send_connect", late)
    said = []
    output = Mqtt(f"mqtt://127.0.0.1:{broker.port}", bundle, say=said.append)
    time.sleep(0.1)  # the socket is there
    output.event(event(1))
    output.close()
    assert output.unsent == 0 and not said


def test_a_dead_broker_costs_events_and_never_the_stream(bundle):
    pytest.importorskip("paho.mqtt.client")
    output = Mqtt(f"mqtt://127.0.0.1:{free_port()}", bundle, say=lambda _: None)
    for n in range(3000):
        output.event(event(n))
    output.close()
    assert output.unsent == 3000


def test_a_broker_that_hangs_is_given_up_at_the_end(bundle):
    """It takes the connection and never says a word."""
    pytest.importorskip("paho.mqtt.client")
    with socket.create_server(("127.0.0.1", 0)) as server:
        output = Mqtt(f"mqtt://127.0.0.1:{server.getsockname()[1]}", bundle, say=lambda _: None)
        for n in range(10):
            output.event(event(n))
        output.close(0.2)
        assert output.unsent == 10
    output._thread.join(PATIENCE_S)


@pytest.fixture()
def locked(tmp_path, broker):
    """A broker that wants a password full of signs that mean something in a URL."""
    tool = shutil.which("mosquitto_passwd")
    if not tool:
        pytest.skip("needs mosquitto_passwd: apt install mosquitto")
    (tmp_path / "locked").mkdir()
    users = tmp_path / "locked" / "users"
    subprocess.run([tool, "-c", "-b", users, "me@home", "s:e/c@r#t"], check=True, capture_output=True)
    broker = Broker(tmp_path / "locked", "allow_anonymous false", f"password_file {users}")
    yield broker
    broker.kill()


@pytest.mark.parametrize("url, password", [("me%40home:s%3Ae%2Fc%40r%23t@", None), ("me%40home@", "s:e/c@r#t")])
def test_a_password_comes_by_url_or_environment(locked, bundle, opened, monkeypatch, url, password):
    if password:
        monkeypatch.setenv("TINYEAR_MQTT_PASSWORD", password)
    listener = opened(Listener(locked.port, username="me@home", password="s:e/c@r#t"))
    opened(Mqtt(f"mqtt://{url}127.0.0.1:{locked.port}", bundle))
    listener.wait("tinyear/small/availability", "online")


def test_a_wrong_password_is_said_once_and_the_events_counted(locked, bundle):
    said = []
    output = Mqtt(f"mqtt://me%40home:no@127.0.0.1:{locked.port}", bundle, say=said.append)
    output.event(event(1))
    wait_for(lambda: said)
    output.close()
    assert output.unsent == 1 and len(said) == 1
    assert said[0] == f"mqtt 127.0.0.1:{locked.port}: refused: Not authorized; events wait, trying again"


def certificate(folder):
    """Signed by itself, for 127.0.0.1."""
    tool = shutil.which("openssl")
    if not tool:
        pytest.skip("needs openssl")
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([tool, "req", "-x509", *kind, *files, *names], check=True, capture_output=True)


# paho leaves the socket of a failed handshake to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_behind_tls_is_trusted_only_with_its_certificate(tmp_path, broker, bundle, opened, monkeypatch):
    certificate(tmp_path)
    (tmp_path / "tls").mkdir()
    files = [f"certfile {tmp_path / 'cert.pem'}", f"keyfile {tmp_path / 'key.pem'}"]
    secure = Broker(tmp_path / "tls", *files, "allow_anonymous true")
    try:
        said = []
        stranger = opened(Mqtt(f"mqtts://127.0.0.1:{secure.port}", bundle, say=said.append))
        stranger.event(event(1))
        wait_for(lambda: said)
        stranger.close()
        assert stranger.unsent == 1 and "certificate verify failed" in said[0]
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        output = Mqtt(f"mqtts://127.0.0.1:{secure.port}", bundle)
        output.event(event(1))
        output.close()
        assert output.unsent == 0
    finally:
        secure.kill()


def test_home_assistant_is_told_types_that_the_events_then_have(bundle):
    """The template as Home Assistant renders it, in Jinja's sandbox; option names as its documentation has them."""
    sandbox = pytest.importorskip("jinja2.sandbox")
    config = discovery_of(bundle)
    sound, heard = config["components"]["sound"], config["components"]["heard"]
    template = sandbox.ImmutableSandboxedEnvironment().from_string(sound["value_template"])
    for each in (event(1), event(1, 2.0), event(1, 2.0, "hum")):
        row = json.loads(template.render(value_json=json.loads(each.to_json())))
        assert row["event_type"] in sound["event_types"] and row["event_type"].startswith(each.label)
        assert row["event_type"].endswith(" ended") == (each.end_s is not None) and row["p"] == each.p
    assert heard["options"] == [*bundle.labels, NOTHING] and len(sound["event_types"]) == 2 * len(bundle.labels)
    others = {discovery_config(base, bundle)["device"]["identifiers"][0] for base in ("a/b", "a_b", "a/ö", "a/ä")}
    assert len(others) == 4 and all(re.fullmatch(r"[\w-]+", other, re.ASCII) for other in others)
    assert {heard["p"], sound["p"]} == {"sensor", "event"} and heard["unique_id"] != sound["unique_id"]


class Server:
    """Takes POSTs on a free port. `answers`: status codes, then 200; None hangs until close; notes what arrived."""

    def __init__(self, *answers, port=0, location=None):
        self.got, self.headers, self._answers, closing = [], [], list(answers), threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = server._answers.pop(0) if server._answers else 200
                server.got.append((json.loads(body)["start_s"], answer))
                server.headers.append((self.path, dict(self.headers)))
                if answer is None:
                    closing.wait()
                    return
                self.send_response(answer)
                if location:
                    self.send_header("Location", location)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self._closing = closing
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_a_server_gets_the_json_in_order(opened):
    server = opened(Server())
    output = opened(Webhook(server.url.replace("//", "//me:s%40cret@") + "/a?b=1"))
    for n in range(5):
        output.event(event(n))
    output.close()
    assert server.got == [(float(n), 200) for n in range(5)] and output.unsent == 0
    path, headers = server.headers[0]
    assert path == "/a?b=1" and headers["Content-Type"] == "application/json"
    assert base64.b64decode(headers["Authorization"].split()[1]) == b"me:s@cret"


def test_failures_are_tried_again_and_refusals_are_not(opened):
    said, server = [], opened(Server(503, 500, 200, 404, 200, 429))
    output = opened(Webhook(f"{server.url}/secret", said.append, pause_s=0.01))
    for n in range(4):
        output.event(event(n))
    wait_for(lambda: len(server.got) == 6)
    output.close()
    assert server.got == [(0, 503), (0, 500), (0, 200), (1, 404), (2, 200), (3, 429)]
    assert output.unsent == 2


def test_a_server_that_was_away_gets_what_waited(opened):
    port, said = free_port(), []
    output = opened(Webhook(f"http://127.0.0.1:{port}/secret", said.append, pause_s=0.01))
    output.n_waiting = 20
    for n in range(50):
        output.event(event(n))
    wait_for(lambda: said)
    server = opened(Server(port=port))
    wait_for(lambda: (49.0, 200) in server.got)
    output.close()
    heard = [n for n, _ in server.got]
    assert heard[-20:] == list(range(30, 50)) and len(heard) <= 21 and output.unsent == 50 - len(heard)
    assert len(said) == 2 and "refused; events wait, trying again" in said[0] and "works again" in said[1]
    assert not any("secret" in line for line in said)


def test_a_server_that_hangs_is_tried_again(opened):
    server = opened(Server(None))
    output = opened(Webhook(server.url, lambda _: None, pause_s=0.01, timeout_s=0.2))
    output.event(event(1))
    wait_for(lambda: (1.0, 200) in server.got)
    output.close()
    assert server.got == [(1.0, None), (1.0, 200)] and output.unsent == 0


def test_a_server_that_hangs_for_ever_is_given_up_at_the_end(opened):
    server = opened(Server(*[None] * 100))
    output = Webhook(server.url, lambda _: None)
    for n in range(10):
        output.event(event(n))
    wait_for(lambda: server.got)
    output.close(0.2)
    assert output.unsent == 10
    server.close()
    output._thread.join(PATIENCE_S)
    assert not output._thread.is_alive() and len(server.got) == 1
    assert output.unsent == 10  # the one under way has failed by now, and is not counted again


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirection_is_a_refusal_and_is_not_followed(opened, code):
    said, elsewhere = [], opened(Server())
    for location in (elsewhere.url, "file:///etc/passwd"):
        server = opened(Server(code, location=location))
        output = opened(Webhook(server.url, said.append))
        output.event(event(1))
        output.close()
        assert output.unsent == 1 and len(server.got) == 1 and not elsewhere.got
    assert all(f"refused: it answers {code}" in line for line in said)


def test_nonsense_instead_of_http_is_survived(opened):
    with socket.create_server(("127.0.0.1", 0)) as server:
        output = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}", lambda _: None, pause_s=0.01)
        output.event(event(1))
        for reply in (b"\xff\x00 no http\r\n\r\n", b"", b"HTTP/1.1 999999999999 x\r\n\r\n"):
            with server.accept()[0] as client:
                client.recv(65536)
                client.sendall(reply)
        with server.accept()[0] as client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        output.close()
        assert output.unsent == 0


def test_urls_are_checked_before_anything_is_opened(bundle):
    for url in ("ws://a", "mqtt:///topic", "mqtt://a b", "mqtt://a#b", "mqtt://[::1", "mqtt://a:0"):
        with pytest.raises(OutputError):
            Mqtt(url, bundle)
    for url in ("javascript:x", "http:///a", "gopher://a", "http://a:b", "//a", ""):
        with pytest.raises(OutputError):
            Webhook(url)
