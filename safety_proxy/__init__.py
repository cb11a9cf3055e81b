"""Scans every picture with CLIP before the image server pict-rs stores it.

The map, from the edge inward; imports go downward only:

    cli.py        the commands; commands/ has those that are a file of their own
    demo/         `safety-proxy demo`: sample pictures, a stand-in pict-rs, a table of outcomes
    app.py        the composition root: builds each part once and hands it down, with assembly.py
                  (model and decoders) and administration.py (policy and lists while it runs)
    bench.py      a model and decoders without listeners, for evaluation/
    evaluation/   `evaluate`, `calibrate`: a policy over an admin's own pictures, and the report
    proxy/        HTTP between Lemmy and pict-rs: routes, ingest, fetch, proxied, forward, replies
    validator/    the second door: pict-rs asks about what it is about to keep
    admin/        the private listener: health, statistics, metrics, policy, lists, explain
    proof.py      whether the model works and a policy is sane, by pictures in harmless/
    rejudge.py    what another policy would make of all known pictures
    scanner.py    the main path: bytes -> Verdict, and the only maker of `Cleared`; look.py is what
                  it sees of a file
    media/        spooled bytes with their digest, and the crops that a model looks at; formats/ has
                  a reader of each type, isolation/ the processes in which they work
    store/        verdicts and embeddings already known, lists of hashes, what outlives a restart
    inference/    CLIP through open_clip, batched across requests
    policy/       pure: embeddings, prompts and thresholds -> action and reasons
    metrics.py, pace.py, logs.py, settings.py, tasks.py
    deadline.py, verdict.py, evidence.py, crops.py, redaction.py, errors.py
"""

__version__ = "0.1.0"
