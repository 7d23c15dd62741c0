"""An S3 server for tests behind a proxy that injects faults: moto, on this machine alone.

    python s3.py EVERY      prints the port; every EVERY-th request fails (0: none)

In turn a request is refused before anything is done, and done without an answer. Lines on stdin:
`dump FOLDER` writes all objects of the bucket into a folder and prints `done`; the end of stdin ends
the program. The bucket is called `batch`.
"""

import http.client
import itertools
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
import boto3
from moto.server import ThreadedMotoServer

EVERY = int(sys.argv[1]) if len(sys.argv) > 1 else 0
CALLS = itertools.count(1)
LOCK = threading.Lock()
HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        with LOCK:
            call = next(CALLS)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        refused = EVERY and call % (2 * EVERY) == EVERY
        lost = EVERY and call % (2 * EVERY) == 0
        if refused:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        there = http.client.HTTPConnection("127.0.0.1", MOTO, timeout=60)
        there.request(self.command, self.path, body=body, headers=dict(self.headers))
        found = there.getresponse()
        data = found.read()
        there.close()
        if lost:
            self.close_connection = True
            return
        self.send_response(found.status)
        for name, value in found.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        length = found.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer


server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
MOTO = server._server.server_port
s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{MOTO}")
s3.create_bucket(Bucket="batch")
proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
threading.Thread(target=proxy.serve_forever, daemon=True).start()
print(proxy.server_port, flush=True)
for line in sys.stdin:
    folder = line.strip().removeprefix("dump ")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="batch"):
        for item in page.get("Contents", []):
            path = os.path.join(folder, item["Key"])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            s3.download_file("batch", item["Key"], path)
    print("done", next(CALLS), flush=True)
os._exit(0)
