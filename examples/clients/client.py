"""Asks a server (python -m trainer.serve) about a photo; needs Python's standard library only.

python client.py http://127.0.0.1:8501 photo.jpg
"""

import json
import sys
import urllib.error
import urllib.request

url, file = sys.argv[1:]
with open(file, "rb") as photo:
    data = photo.read()
request = urllib.request.Request(f"{url}/predict", data, {"Content-Type": "application/octet-stream"})
try:
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
except urllib.error.HTTPError as error:  # 400: no photo; 503: busy, try again after the seconds of Retry-After
    sys.exit(f"{file}: {json.load(error)['error']}")
for one in answer["top"]:
    print(f"{one['probability']:.3f} {one['label']}")
