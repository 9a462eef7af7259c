"""Serves an exported model over HTTP, without TensorFlow: `python -m trainer.serve --model=MODELS/champion`.

`app` has the routes, `intake` reads bodies within limits, `protocols/` says what they mean; `answering` has images
decoded and asked about, `models` loads what answers, `batcher` asks it, `watch` changes it, `server` ends nicely.
"""
