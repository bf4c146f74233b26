"""Events over the network: an MQTT broker, and a web server that takes POSTs.

Topics, under tinyear/BUNDLE unless the URL names another:

    .../event         each event's JSON, once it begins and once it ends; at least once (QoS 1), not retained
    .../state         the surest class that lasts, or "nothing known"; retained
    .../availability  online or offline; retained, and the broker's to say when we vanish
"""

import base64
import json
import os
import re
import sys
import time
import zlib
from collections import deque
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from runtime.bundle import Bundle
from runtime.events import Event
from runtime.outputs import CLOSE_S, Output, OutputError, Say, sentence, to_stderr

NOTHING = "nothing known"
PASSWORD = "TINYEAR_MQTT_PASSWORD"
MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}
KEEPALIVE_S = 30
LONGEST_PAUSE_S = 60  # between two tries
TIMEOUT_S = 10.0  # of a web server
GIVE_UP_S = 600.0  # an event that a server cannot take must not hold up the others for ever


class Mqtt(Output):
    """A broker's topics. While it is away events wait; they leave when it is back, the state as it is then."""

    name = "mqtt"

    def __init__(
        self, url: str, bundle: Bundle, discovery: str = "homeassistant", say: Say = to_stderr, close_s: float = CLOSE_S
    ) -> None:
        parts = _split(url, tuple(MQTT_PORTS), "--mqtt")
        host, port = parts.hostname or "", parts.port or MQTT_PORTS[parts.scheme]
        super().__init__(f"{host}:{port}", say, close_s)
        self._base = unquote(parts.path).strip("/") or f"tinyear/{_plain(bundle.folder.resolve().name)}"
        if re.search(r"[+#\0]", self._base) or len(self._base.encode()) > 1000:
            raise OutputError(f"--mqtt: topic {self._base[:80]!r}: leave out + and #, and keep it shorter than 1000")
        if re.search(r"[+#\0]", discovery):
            raise OutputError(f"--mqtt-discovery {discovery!r}: leave out + and #")
        self._hello = [(f"{self._base}/availability", "online")]
        if discovery:
            config = discovery_config(self._base, bundle)
            topic = f"{discovery.strip('/')}/device/{config['device']['identifiers'][0]}/config"
            self._hello.append((topic, json.dumps(config)))
        self._lasting: dict[str, float] = {}  # label -> p
        self._acknowledged: deque[int] = deque(maxlen=100)  # message numbers; one event at a time waits for its own
        self._client = self._prepared(parts)
        self._client.connect_async(host, port, KEEPALIVE_S)
        self._client.loop_start()  # from here on it connects, and connects again, by itself
        self.start()

    def _prepared(self, parts: SplitResult) -> Any:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise OutputError("--mqtt needs paho-mqtt 2: pip install 'tinyear[events]'") from error
        client = Client(CallbackAPIVersion.VERSION2)
        password = unquote(parts.password) if parts.password else os.environ.get(PASSWORD)
        if parts.username:
            client.username_pw_set(unquote(parts.username), password)
        if parts.scheme == "mqtts":
            client.tls_set()
        client.will_set(f"{self._base}/availability", "offline", retain=True)
        client.reconnect_delay_set(1, LONGEST_PAUSE_S)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_connect_fail, client.on_publish = self._on_connect_fail, self._on_publish
        return client

    def event(self, event: Event) -> None:
        lasting = self._lasting | {event.label: event.p}
        if event.end_s is not None:
            del lasting[event.label]
        self._lasting = lasting  # replaced whole: the client's thread reads it
        super().event(event)

    @property
    def state(self) -> str:
        lasting = self._lasting
        return max(lasting, key=lambda label: lasting[label], default=NOTHING)

    def deliver(self, job: Event) -> None:
        with self._changed:
            # Between its socket and its CONNECT the client would send it first, and the broker would hang up.
            self._changed.wait_for(lambda: not self._away or self._is_hopeless)
        number = self._client.publish(f"{self._base}/event", job.to_json(), qos=1).mid
        with self._changed:
            # The client sends it again after each reconnection.
            self._changed.wait_for(lambda: number in self._acknowledged or self._is_hopeless)
            sent = number in self._acknowledged
        if not sent:
            raise OutputError("the broker did not take an event")
        self._client.publish(f"{self._base}/state", self.state, retain=True)

    def leave(self) -> None:
        goodbye = self._client.publish(f"{self._base}/availability", "offline", qos=1, retain=True).mid
        with self._changed:
            self._changed.wait_for(lambda: goodbye in self._acknowledged or self._gave_up or self._away)
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def _is_hopeless(self) -> bool:
        """At the end nobody waits for a broker that is away."""
        return self._gave_up or (self._ending and self._in_trouble)

    @property
    def _away(self) -> bool:
        return not self._client.is_connected()

    # What follows runs in the client's thread.

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self.trouble(f"refused: {reason}; events wait, trying again")
            return
        # QoS 0: what is said at each connection must not pile up for the next one
        for topic, text in [*self._hello, (f"{self._base}/state", self.state)]:
            client.publish(topic, text, retain=True)
        self.works()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self.trouble(f"the broker is gone ({reason}); events wait, trying again")
        with self._changed:
            self._changed.notify_all()

    def _on_connect_fail(self, _client: Any, _data: Any) -> None:
        error = sys.exception()  # paho calls this where it handles it, and does not hand it over
        reason = f" ({sentence(error)})" if isinstance(error, Exception) else ""
        self.trouble(f"the broker is not reached{reason}; events wait, trying again")

    def _on_publish(self, _client: Any, _data: Any, number: int, _reason: Any, _properties: Any) -> None:
        with self._changed:
            self._acknowledged.append(number)
            self._changed.notify_all()


def discovery_config(base: str, bundle: Bundle) -> dict[str, Any]:
    """What Home Assistant (2024.12 and later) is told of us: a device with a sensor (what is heard) and an event entity.

    https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload. An event's type is its label, and the
    label with " ended" at its end; the other fields of the JSON become attributes.
    """
    identity = f"tinyear_{_plain(base)}_{zlib.crc32(base.encode()):08x}"  # always the same, another for each topic
    labels = list(bundle.rules.on)
    kind = "value_json.label ~ ('' if value_json.end_s is none else ' ended')"
    heard = {"p": "sensor", "name": "Heard", "icon": "mdi:ear-hearing", "state_topic": f"{base}/state"}
    sound = {"p": "event", "name": "Sound", "icon": "mdi:waveform", "state_topic": f"{base}/event"}
    return {
        "device": {"identifiers": [identity], "name": base.replace("/", " "), "manufacturer": "tinyear"},
        "origin": {"name": "tinyear"},
        "availability_topic": f"{base}/availability",
        "components": {
            "heard": heard | {"unique_id": f"{identity}_heard", "device_class": "enum", "options": [*labels, NOTHING]},
            "sound": sound
            | {
                "unique_id": f"{identity}_sound",
                "event_types": [*labels, *(f"{label} ended" for label in labels)],
                "value_template": "{{ dict(value_json, event_type=" + kind + ") | tojson }}",
            },
        },
    }


class Webhook(Output):
    """POSTs each event's JSON, in their order. Tries again, ever more slowly, where the server fails or is away; not
    where it refuses (4xx). It is never redirected: a POST that follows a redirection arrives as a GET, or elsewhere.
    """

    name = "webhook"

    def __init__(
        self,
        url: str,
        say: Say = to_stderr,
        close_s: float = CLOSE_S,
        pause_s: float = 1.0,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        parts = _split(url, ("http", "https"), "--webhook")
        server = parts.netloc.rpartition("@")[2]
        super().__init__(server, say, close_s)  # the path may hold a secret: it is never said
        import urllib.request

        class NoRedirects(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_: Any) -> None:
                return None

        self._headers = {"Content-Type": "application/json", "User-Agent": "tinyear"}
        if parts.username:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._url = parts._replace(netloc=server).geturl()
        self._opener = urllib.request.build_opener(NoRedirects)
        self._pause_s, self._timeout_s = pause_s, timeout_s
        self.start()

    def deliver(self, job: Event) -> None:
        give_up_at, pause_s = time.monotonic() + GIVE_UP_S, self._pause_s
        while True:
            last = self.ending or time.monotonic() >= give_up_at
            failure = self._post(job)
            if not failure:
                return
            if last:
                raise OutputError(failure)
            self.trouble(f"{failure}; events wait, trying again")
            self.rest(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _post(self, event: Event) -> str:
        """-> why it should be tried again, empty if it arrived. Raises OutputError where that is no use."""
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request

        request = Request(self._url, event.to_json().encode(), self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout_s):
                return ""
        except HTTPError as error:
            error.close()
            if error.code >= 500:
                return f"it answers {error.code}"
            raise OutputError(f"refused: it answers {error.code}") from None
        except (OSError, HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            return sentence(reason if isinstance(reason, Exception) else error)


def _split(url: str, schemes: tuple[str, ...], flag: str) -> SplitResult:
    """Never quotes the URL: it may hold a password."""
    wanted = f"{flag}: give {' or '.join(f'{scheme}://HOST' for scheme in schemes)}[:PORT][/...]"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise OutputError(f"{wanted} (the host or the port cannot be read)") from error
    if parts.scheme not in schemes or not parts.hostname or port == 0:
        raise OutputError(f"{wanted}, not a URL of {parts.scheme or 'no scheme'} without a host or with another scheme")
    if not url.isprintable() or " " in url or not (parts.path + parts.query).isascii():
        raise OutputError(f"{wanted}, without spaces; other signs than ASCII as %XX")
    if parts.fragment or (parts.query and schemes[0] == "mqtt"):
        raise OutputError(f"{wanted}, without ? and #")
    return parts


def _plain(text: str) -> str:
    """A name for topics and identifiers."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:64] or "bundle"
