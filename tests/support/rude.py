"""A client that speaks HTTP/2 frame by frame: messages that never end, headers that never come, streams cut short."""

import contextlib
import socket
import struct
import threading

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ATTRIBUTE = "/attributary.v1.AttributionService/Attribute"


class Rude:
    """One connection. Windows are kept, because a server may hang up on who does not."""

    def __init__(self, address, preface=PREFACE):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.closed = False
        self.ended = {}  # stream -> what ended it: the frame's kind
        self._window = {0: 65_535}
        self._initial = 65_535
        self._changed = threading.Condition()
        self._send_lock = threading.Lock()
        self.socket.sendall(preface)
        if preface == PREFACE:
            self.frame(SETTINGS, 0, 0, b"")
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()

    def frame(self, kind, flags, stream, payload):
        """Send one frame."""
        head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream)
        with self._send_lock:
            self.socket.sendall(head + payload)

    def begin(self, stream, path=ATTRIBUTE, token=None, **extra):
        """Send the headers of a call."""
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "test",
                  "content-type": "application/grpc", "te": "trailers"}  # fmt: skip
        if token is not None:
            fields["authorization"] = f"Bearer {token}"
        fields |= {name.replace("_", "-"): value for name, value in extra.items()}
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
        with self._changed:
            self._window[stream] = self._initial
        self.frame(HEADERS, 4, stream, block)

    def send(self, stream, data, timeout=20.0):
        """Send data as the windows allow; return how much was taken before the time, or the stream, was over."""
        sent = 0
        while sent < len(data):
            with self._changed:
                ready = self._changed.wait_for(
                    lambda: (
                        self.closed or stream in self.ended or min(self._window[0], self._window[stream]) > 0
                    ),
                    timeout,
                )
                if not ready or self.closed or stream in self.ended:
                    return sent
                size = min(16_384, self._window[0], self._window[stream], len(data) - sent)
                self._window[0] -= size
                self._window[stream] -= size
            try:
                self.frame(DATA, 0, stream, data[sent : sent + size])
            except OSError:
                return sent
            sent += size
        return sent

    def wait_ended(self, stream, timeout=30.0):
        """Wait until a stream, or the connection, has ended; return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self.closed or stream in self.ended, timeout)

    def wait_closed(self, timeout=30.0):
        """Wait until the server has hung up; return whether it has."""
        self.socket.settimeout(timeout)
        if hasattr(self, "_reader"):
            self._reader.join(timeout)
            return self.closed
        with contextlib.suppress(OSError):
            while self.socket.recv(65_536):
                pass
            return True
        return False

    def close(self):
        """Leave without a word."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _read(self):
        with contextlib.suppress(OSError), self.socket.makefile("rb") as stream:
            while len(head := stream.read(9)) == 9:
                size = struct.unpack(">I", b"\0" + head[:3])[0]
                self._take(head[3], head[4], struct.unpack(">I", head[5:])[0], stream.read(size))
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _take(self, kind, flags, stream, payload):
        with self._changed:
            if kind == SETTINGS and not flags & 1:
                for at in range(0, len(payload), 6):
                    name, value = struct.unpack(">HI", payload[at : at + 6])
                    if name == 4:
                        for known in self._window:
                            if known:
                                self._window[known] += value - self._initial
                        self._initial = value
            elif kind == WINDOW_UPDATE:
                step = struct.unpack(">I", payload)[0]
                self._window[stream] = self._window.get(stream, self._initial) + step
            elif kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & 1):
                self.ended[stream] = kind
            self._changed.notify_all()
        if kind == SETTINGS and not flags & 1:
            self.frame(SETTINGS, 1, 0, b"")
        elif kind == PING and not flags & 1:
            self.frame(PING, 1, 0, payload)


def message(data, size=None, compressed=False):
    """The gRPC framing of a message; `size` may claim more than there is."""
    return bytes([compressed]) + struct.pack(">I", len(data) if size is None else size) + data


def _text(text):
    data = text.encode()
    size = len(data)
    if size < 127:
        return bytes([size]) + data
    out, rest = [127], size - 127
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes([*out, rest]) + data
