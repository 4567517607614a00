"""A bucket of Google Cloud Storage on this machine, for TensorFlow's client.

TensorFlow has the addresses of Google's servers built in, but its client takes
a proxy from the environment: this one answers in the servers' place, with a
certificate that the environment makes the client trust.
"""

import contextlib
import http.server
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import urllib.parse

import pytest

_HOSTS = ("storage.googleapis.com", "www.googleapis.com")
_DATE = "2020-01-01T00:00:00.000Z"


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  objects: dict[str, bytes]
  log: list[str]
  context: ssl.SSLContext

  def do_CONNECT(self):
    self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    self.connection = self.context.wrap_socket(
      self.connection, server_side=True
    )
    self.rfile = self.connection.makefile("rb")
    self.wfile = self.connection.makefile("wb", 0)
    self.close_connection = False

  def do_GET(self):
    url = urllib.parse.urlsplit(self.path)
    self.log.append(f"GET {url.path} {self.headers.get('Range', '')}".strip())
    if url.path.startswith("/storage/v1/b/"):
      self._metadata(url)
    else:
      self._content(urllib.parse.unquote(url.path.split("/", 2)[2]))

  def do_POST(self):
    url = urllib.parse.urlsplit(self.path)
    self._body()
    if url.path.startswith("/upload/"):  # the start of an upload
      where = f"https://{_HOSTS[1]}/put?{url.query}"
      self._send(200, headers=(("Location", where),))
    elif found := re.match(
      r".*/o/([^/]+)/rewriteTo/b/[^/]+/o/([^/]+)$", url.path
    ):
      old, new = map(urllib.parse.unquote, found.groups())
      self.objects[new] = self.objects[old]
      self._send(200, b'{"done": true}')

  def do_PUT(self):
    query = urllib.parse.urlsplit(self.path).query
    (name,) = urllib.parse.parse_qs(query)["name"]
    self.objects[name] = self._body()
    self._send(200)

  def do_DELETE(self):
    path = urllib.parse.urlsplit(self.path).path
    name = urllib.parse.unquote(path.rpartition("/")[2])
    found = self.objects.pop(name, None) is not None
    self._send(204 if found else 404)

  def finish(self):
    super().finish()
    self.connection.close()

  def _body(self) -> bytes:
    if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
      return self.rfile.read(int(self.headers.get("Content-Length", 0)))
    chunks = []
    while not chunks or chunks[-1]:
      chunks.append(self.rfile.read(int(self.rfile.readline(), 16)))
      self.rfile.readline()
    return b"".join(chunks)

  def _metadata(self, url) -> None:
    found = re.match(r"/storage/v1/b/[^/]+/o/(.+)$", url.path)
    if found:
      name = urllib.parse.unquote(found[1])
      if name not in self.objects:
        self._send(404)
      else:
        self._send(200, json.dumps(self._described(name)).encode())
      return
    query = dict(urllib.parse.parse_qsl(url.query))
    prefix, items, folders = query.get("prefix", ""), [], set()
    for name in sorted(self.objects):
      if name.startswith(prefix):
        below, slash, _ = name[len(prefix) :].partition("/")
        if slash and query.get("delimiter"):
          folders.add(prefix + below + slash)
        else:
          items.append(self._described(name))
    listed = {"items": items, "prefixes": sorted(folders), "name": "bucket"}
    self._send(200, json.dumps(listed).encode())

  def _described(self, name: str) -> dict[str, str]:
    size = str(len(self.objects[name]))
    return {"name": name, "size": size, "generation": "1", "updated": _DATE}

  def _content(self, name: str) -> None:
    data = self.objects.get(name)
    asked = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
    if data is None:
      self._send(404)
    elif not asked:
      self._send(200, data)
    elif int(asked[1]) >= len(data):
      self._send(416)
    else:
      part = data[int(asked[1]) : int(asked[2]) + 1]
      last = int(asked[1]) + len(part) - 1
      told = f"bytes {asked[1]}-{last}/{len(data)}"
      self._send(206, part, (("Content-Range", told),))

  def _send(self, code: int, data: bytes = b"", headers=()) -> None:
    self.send_response(code)
    for name, value in (*headers, ("Content-Length", str(len(data)))):
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *_):
    pass


@contextlib.contextmanager
def bucket(folder, objects):
  """Serves `objects`, name -> bytes, as the bucket of any name.

  Yields:
    The environment in which TensorFlow finds it, and a list of what is read.
  """
  if not shutil.which("openssl"):
    pytest.skip("openssl makes the certificate, and is not installed")
  key, certificate = folder / "key.pem", folder / "certificate.pem"
  subprocess.run(
    [
      *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
      *("-keyout", key, "-out", certificate, "-days", "2"),
      *("-subj", f"/CN={_HOSTS[0]}", "-addext"),
      "subjectAltName=" + ",".join(f"DNS:{host}" for host in _HOSTS),
    ],
    check=True,
    capture_output=True,
  )
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  context.load_cert_chain(certificate, key)
  log: list[str] = []
  made = {"objects": objects, "context": context, "log": log}
  handler = type("Handler", (_Handler,), made)
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  proxy = f"http://127.0.0.1:{server.server_port}"
  environment = os.environ | {
    "https_proxy": proxy,
    "no_proxy": "",
    "CURL_CA_BUNDLE": os.fspath(certificate),
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    "NO_GCE_CHECK": "true",
    "GCS_RETRY_CONFIG_MAX_RETRIES": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
  }
  try:
    yield environment, log
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
