"""Scans every picture with CLIP before the image server pict-rs stores it.

The map, from the edge inward; imports go downward only:

    cli.py        the commands
    demo/         `safety-proxy demo`: sample pictures, a stand-in pict-rs, a table of outcomes
    app.py        the composition root: builds each part once and hands it down
    proxy/        HTTP between Lemmy and pict-rs: routes, ingest, fetch, forward, replies
    admin/        the private listener: health, readiness, statistics, metrics
    scanner.py    the main path: bytes -> Verdict, and the only maker of `Cleared`
    media/        spooled bytes with their digest, and the crops that a model looks at
    store/        verdicts already known, and hashes that need no model
    inference/    CLIP through open_clip, batched across requests
    policy/       pure: embeddings, prompts and thresholds -> action and reasons
    metrics.py, settings.py, tasks.py, verdict.py, crops.py, errors.py
"""

__version__ = "0.1.0"
