"""Receivers of Fluent forward and of OTLP, by the libraries of those formats."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from addresses import Address
from harness import PATIENCE


class ForwardServer:
    """Takes chunks, and acknowledges them only when it may."""

    def __init__(self, address: Address) -> None:
        self.msgpack = pytest.importorskip("msgpack")
        self.sock = address.listen()
        self.sock.settimeout(60 * PATIENCE)
        self.may_answer = threading.Event()
        self.chunks: list[tuple[str, str, list[tuple[int, dict]]]] = []  # tag, id, entries
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                connection = self.sock.accept()[0]
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except OSError:
            pass

    def _serve(self, connection: socket.socket) -> None:
        unpacker = self.msgpack.Unpacker(raw=False, unicode_errors="strict", max_buffer_size=1 << 26)
        try:
            while piece := connection.recv(1 << 18):
                unpacker.feed(piece)
                for tag, packed, options in unpacker:
                    entries = self._entries(packed)
                    assert options["size"] == len(entries)
                    self.chunks.append((tag, options["chunk"], entries))
                    self.may_answer.wait()
                    connection.sendall(self.msgpack.packb({"ack": options["chunk"]}))
        except OSError:
            pass

    def _entries(self, packed: bytes) -> list[tuple[int, dict]]:
        unpacker = self.msgpack.Unpacker(raw=False, max_buffer_size=1 << 26)
        unpacker.feed(packed)
        entries = []
        for time, fields in unpacker:
            assert time.code == 0 and len(time.data) == 8
            nanoseconds = int.from_bytes(time.data[:4], "big") * 10**9 + int.from_bytes(time.data[4:], "big")
            entries.append((nanoseconds, fields))
        return entries

    def drop_connections(self) -> None:
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()

    def close(self) -> None:
        self.may_answer.set()
        self.sock.close()
        for connection in self.connections:
            connection.close()


# Of opentelemetry-proto: logs/v1/logs.proto, common/v1/common.proto, resource/v1/resource.proto and
# collector/logs/v1/logs_service.proto, the fields that are used. (field, number, type[, repeated])
MESSAGES = {
    "AnyValue": (("string_value", 1, "string"), ("int_value", 3, "int64"), ("bytes_value", 7, "bytes")),
    "KeyValue": (("key", 1, "string"), ("value", 2, "AnyValue")),
    "Resource": (("attributes", 1, "KeyValue", True),),
    "LogRecord": (
        ("time_unix_nano", 1, "fixed64"), ("severity_number", 2, "int32"), ("body", 5, "AnyValue"),
        ("attributes", 6, "KeyValue", True), ("observed_time_unix_nano", 11, "fixed64")),
    "ScopeLogs": (("log_records", 2, "LogRecord", True),),
    "ResourceLogs": (("resource", 1, "Resource"), ("scope_logs", 2, "ScopeLogs", True)),
    "Request": (("resource_logs", 1, "ResourceLogs", True),),
    "PartialSuccess": (("rejected_log_records", 1, "int64"), ("error_message", 2, "string")),
    "Response": (("partial_success", 1, "PartialSuccess"),),
}


def otlp_messages() -> dict[str, Any]:
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="otlp.proto", package="otlp", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "AnyValue":
            message.oneof_decl.add(name="value")
        for field, number, kind, *repeated in fields:
            added = message.field.add(
                name=field, number=number,
                label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL)
            if kind in MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".otlp.{kind}"
            else:
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
            if name == "AnyValue":
                added.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    factory = message_factory.MessageFactory(pool)
    return {name: factory.GetPrototype(pool.FindMessageTypeByName(f"otlp.{name}")) for name in MESSAGES}


class OtlpServer:
    """Answers what `judge` says of the records of a request: (status, headers, rejected)."""

    def __init__(self, address: Address) -> None:
        self.messages = otlp_messages()
        self.records: list[tuple[str, Any]] = []  # VM and LogRecord, of requests that were taken
        self.requests: list[int] = []  # how many records each had
        self.judge = lambda records: (200, {}, 0)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                assert self.path == "/v1/logs"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                status, headers, body = outer.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((address.place, address.port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        request = self.messages["Request"].FromString(data)
        records = []
        for logs in request.resource_logs:
            (host,) = [pair.value.string_value for pair in logs.resource.attributes if pair.key == "host.name"]
            records += [(host, record) for scope in logs.scope_logs for record in scope.log_records]
        self.requests.append(len(records))
        status, headers, rejected = self.judge(records)
        if status != 200:
            return status, headers, b"because"
        response = self.messages["Response"]()
        if rejected:
            response.partial_success.rejected_log_records = rejected
            response.partial_success.error_message = "no\nroom"
        if rejected < len(records):
            self.records += records
        return status, headers, response.SerializeToString()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
