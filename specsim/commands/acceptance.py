"""``specsim acceptance``: what an engine reports of its drafts, as evidence that a scenario can point to."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path


def run(files: Sequence[str], *, out: str | None, model_name: str | None, engine: str | None, as_json: bool) -> None:
    """Read one scrape or log, or two scrapes, print the acceptance model, and write it where ``out`` says."""
    from specsim.acceptance.acceptance_file import write_evidence
    from specsim.files import file_to_write
    from specsim.interop.vllm_metrics import acceptance_report, read_acceptance

    place = None if out is None else file_to_write(out)
    evidence = read_acceptance([Path(file) for file in files], model_name=model_name, engine=engine)
    if place is not None:
        write_evidence(place, evidence)
    if as_json:
        from specsim.acceptance.acceptance_file import document_of

        json.dump(document_of(evidence), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    print(acceptance_report(evidence))
    if out is not None:
        print(f"\nwritten to {out}; in a scenario: acceptance = {{ file = {json.dumps(out)} }}")
