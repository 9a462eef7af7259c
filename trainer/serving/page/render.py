"""Renders try.html: the model, what runs it and the page that asks it, in one file that asks nobody else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import pathlib
from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema
from markupsafe import Markup

from pipeline.pages.environment import environment
from trainer.models.weights import LABELS_FILE
from trainer.serving.forms import INT8_FILE, PREPROCESS_FILE, TFLITE_FILE
from trainer.serving.page.runtime import VERSION, Runtime

_SCRIPTS = ("coded.js", "jpeg.js", "pixels.js", "try.js")  # of this folder, in this order
_LARGEST_FLOAT = 32_000_000  # bytes; above, integers take its place where they are shown to be as good


def render_page(folder: pathlib.Path, *, title: str, runtime: Runtime) -> str:
    """Renders the page of an export.

    Args:
      folder: holds the export.
      title: names the model to people.
      runtime: what runs it.

    Returns:
      HTML, of the model's size and 6 MB more. All in it that is large is compressed, and unpacked by the browser.
    """
    file = _chosen(folder)
    content = file.read_bytes()
    labels = (folder / LABELS_FILE).read_text(encoding="utf-8").splitlines()
    spec = json.loads((folder / PREPROCESS_FILE).read_text(encoding="utf-8"))
    pages = environment(__package__)
    style = "".join(pages.get_template(name).render() for name in ("style.css.j2", "try.css.j2"))
    scripts = [pathlib.Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _SCRIPTS]
    loader = base64.b64encode(runtime.loader).decode()
    imports = json.dumps({"imports": {"@litertjs/wasm-utils": f"data:text/javascript;base64,{loader}"}})
    parts = {"litert": runtime.litert, "glue": runtime.glue, "wasm": runtime.wasm, "model": _for_one_image(content)}
    context = {
        "title": title,
        "policy": _policy(style, [imports, *scripts]),
        "style": Markup(style),
        "imports": Markup(imports),
        "scripts": [Markup(script) for script in scripts],
        "parts": {name: _packed(part) for name, part in parts.items()},
        "facts": {"labels": labels, "spec": spec},
        "labels": len(labels),
        "form": file.name,
        "megabytes": len(content) / 1e6,
        "version": VERSION,
        "height": spec["height"],
        "width": spec["width"],
    }
    return pages.get_template("try.html.j2").render(context)


def _chosen(folder: pathlib.Path) -> pathlib.Path:
    """Returns the form that goes into the page: floats, as `trainer.predict` takes them, unless they are too large."""
    floats, integers = folder / TFLITE_FILE, folder / INT8_FILE
    return integers if floats.stat().st_size > _LARGEST_FLOAT and integers.exists() else floats


def _for_one_image(model: bytes) -> bytes:
    """Fixes the number of images of a LiteRT model to one: LiteRT.js takes no model that leaves it open."""
    content = bytearray(model)
    opened = schema.Model.GetRootAs(content, 0)
    for graph in map(opened.Subgraphs, range(opened.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            if tensor.ShapeSignatureLength():
                signature = tensor.ShapeSignatureAsNumpy()  # a view of `content`
                signature[signature == -1] = 1
    return bytes(content)


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Allows what is in the page, by its hash, and what it unpacks; no address of the network."""
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    own = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(hashes)} 'wasm-unsafe-eval' blob: data:",
            f"style-src 'sha256-{own}'",
            "img-src blob: data:",
            "media-src blob: mediastream:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()
