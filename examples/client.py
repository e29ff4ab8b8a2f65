"""Interpolate a video on a midframe server: `python client.py in.mp4 60`. Standard library only."""

import json
import os
import sys
import time
import urllib.request
from pathlib import Path

API = os.environ.get("MIDFRAME_SERVER", "http://127.0.0.1:8642") + "/api/v1"


def call(method, path, data=None, kind="application/json"):
    request = urllib.request.Request(API + path, data, {"Content-Type": kind}, method=method)
    return json.load(urllib.request.urlopen(request))


def main(video, fps):
    data = Path(video).read_bytes()
    source = call("POST", "/sources", json.dumps({"name": Path(video).name, "size": len(data)}).encode())
    call("PUT", f"/sources/{source['id']}/content", data, "application/octet-stream")
    while call("GET", f"/sources/{source['id']}")["state"] == "probing":
        time.sleep(0.2)
    job = call("POST", "/jobs", json.dumps({"source": source["id"], "options": {"fps": fps}}).encode())
    while (job := call("GET", f"/jobs/{job['id']}"))["state"] in ("queued", "running"):
        time.sleep(1)
    assert job["state"] == "done", job["error"]
    urllib.request.urlretrieve(f"{API}/jobs/{job['id']}/files/result", job["output_name"])


if __name__ == "__main__":
    main(*sys.argv[1:])
