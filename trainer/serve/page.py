"""Makes the page at `/`: the one to try the model with that lies in its export, or what can be asked and how."""

from __future__ import annotations

import html
import os
import pathlib

from trainer.serve.service import Service
from trainer.serving.forms import PAGE_FILE

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}}
pre{{background:#f3f3f3;padding:.7rem;overflow-x:auto}}</style></head><body>
<h1>{name}</h1>
<p>Version {version}, {count} labels: {labels}</p>
<h2>Ask it about a photo</h2>
<pre>curl -F image=@photo.jpg {url}/predict</pre>
<h2>As TensorFlow Serving</h2>
<pre>curl -d "{{\\"instances\\": [{{\\"b64\\": \\"$(base64 -w0 photo.jpg)\\"}}]}}" {url}/v1/models/{name}:predict</pre>
<h2>By the Open Inference Protocol</h2>
<pre>curl -H "Inference-Header-Content-Length: 0" -H "Content-Type: application/octet-stream" \\
  --data-binary @photo.jpg {url}/v2/models/{name}/infer</pre>
<h2>And</h2>
<ul><li><a href="/openapi.json">/openapi.json</a>: all there is, for programs</li>
<li><a href="/v1/models/{name}">/v1/models/{name}</a>, <a href="/v2/models/{name}">/v2/models/{name}</a>: what is served
</li><li><a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a>, <a href="/metrics">/metrics</a></li></ul>
</body></html>
"""
_SHOWN = 50


def own_page(export: str) -> pathlib.Path | None:
    """Finds the page that an export has; None where it has none."""
    found = pathlib.Path(os.path.join(export, PAGE_FILE))
    return found if found.is_file() else None


def index(service: Service, url: str) -> str:
    """Returns the page that lists what can be asked, as HTML."""
    labels = ", ".join(service.model.labels[:_SHOWN]) + ("…" if len(service.model.labels) > _SHOWN else "")
    texts = {"name": service.name, "version": service.model.version, "labels": labels, "url": url}
    escaped = {key: html.escape(text) for key, text in texts.items()}
    return _PAGE.format(**escaped, count=len(service.model.labels))
