"""Bytes that attacks send: record batches and requests of the Kafka protocol, snappy blocks, protobuf, raw HTTP.

In: values. Out: bytes, or what a server answered. Opens connections to 127.0.0.1 only, from the address an attack names.
"""

import contextlib
import socket
import struct
import zlib

TABLE = []
for index in range(256):
    value = index
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    TABLE.append(value)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def zigzag(number):
    return varint((number << 1) ^ (number >> 63))


def gzip_of(head, fill, count, tail=b""):
    """A gzip stream of `head`, then `count` times the bytes `fill`, then `tail`."""
    packer = zlib.compressobj(9, wbits=31)
    out = [packer.compress(head)] + [packer.compress(fill) for _ in range(count)] + [packer.compress(tail)]
    return b"".join(out) + packer.flush()


def batch(records, count, codec=0):
    """A record batch (v2) around records that are packed already."""
    attributes = {0: 0, "gzip": 1}[codec]
    body = struct.pack(">hiqqqhii", attributes, count - 1, 0, 0, -1, -1, -1, count) + records
    body = struct.pack(">I", crc32c(body)) + body
    return struct.pack(">qiib", 0, len(body) + 5, 0, 2) + body


def huge_record(mebibytes):
    """One record whose value has so many MiB of one letter, by gzip a thousandth of that."""
    value = mebibytes << 20
    rest = b"\0" + zigzag(0) + zigzag(0) + zigzag(-1) + zigzag(value)
    head = zigzag(len(rest) + value + 1) + rest
    return batch(gzip_of(head, b"x" * (1 << 20), mebibytes, zigzag(0)), 1, "gzip")


def kafka(key, version, body, client=b"attack"):
    head = struct.pack(">hhih", key, version, 7, len(client)) + client
    return struct.pack(">i", len(head) + len(body)) + head + body


def produce(topic, partition, records):
    name = topic.encode()
    body = struct.pack(">hhiih", -1, -1, 5000, 1, len(name)) + name
    return kafka(0, 7, body + struct.pack(">iii", 1, partition, len(records)) + records)


def connect(port, source="127.0.0.1", timeout=10):
    conn = socket.socket()
    conn.bind((source, 0))
    conn.settimeout(timeout)
    conn.connect(("127.0.0.1", port))
    return conn


@contextlib.contextmanager
def held(port, count, source):
    """Connections that stay open for a while: so many as the server lets in."""
    with contextlib.ExitStack() as stack:
        conns = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                conns.append(stack.enter_context(connect(port, source)))
        yield conns


def call_kafka(conn, request):
    """The body of the answer; None: the server closed the connection."""
    conn.sendall(request)
    return read_frame(conn)


def read_exactly(conn, count):
    out = b""
    while len(out) < count:
        got = conn.recv(count - len(out))
        if not got:
            return None
        out += got
    return out


def read_frame(conn):
    size = read_exactly(conn, 4)
    return size and read_exactly(conn, struct.unpack(">i", size)[0])


def error_of_produce(answer):
    """The error code of the first partition."""
    at = 4 + 4
    name = struct.unpack_from(">h", answer, at)[0]
    return struct.unpack_from(">h", answer, at + 2 + name + 4 + 4)[0]


def snappy_of_pairs(pair, total):
    """A raw snappy block of `total` bytes: two bytes, then copies of them."""
    out = bytearray(varint(total) + bytes([1 << 2]) + pair)
    copies, rest = divmod(total - 2, 64)
    out += bytes([63 << 2 | 2, 2, 0]) * copies
    if rest:
        out += bytes([(rest - 1) << 2 | 2, 2, 0])
    return bytes(out)


def http(port, method, path, headers=(), body=b"", source="127.0.0.1", timeout=30):
    """Status and body of one request on a connection of its own; status 0: closed without an answer."""
    lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
    given = dict(headers)
    given.setdefault("Host", f"127.0.0.1:{port}")
    if body or method == "POST":
        given.setdefault("Content-Length", str(len(body)))
    lines += [f"{name}: {value}" for name, value in given.items()]
    try:
        with connect(port, source, timeout) as conn:
            try:
                conn.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
                conn.sendall(body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # Refused before all was sent: the answer may be there.
            return answer(conn)
    except (TimeoutError, ConnectionResetError):
        return 0, b""


def answer(conn):
    got = b""
    try:
        while chunk := conn.recv(65536):
            got += chunk
    except (ConnectionResetError, TimeoutError):
        pass
    head, _, body = got.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), body
