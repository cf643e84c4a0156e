"""datatrove's GopherRepetitionFilter over the texts of a file, one JSON string a line.

Runs in .venv-peers and imports nothing of umer1: `python gopher_runner.py TEXTS.jsonl` prints {"rows", "cpu_s"};
loading packages is not counted, nor is its tokeniser's first word.
"""

import json
import sys
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.filters import GopherRepetitionFilter


def main(file: Path) -> None:
    texts = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    repetition = GopherRepetitionFilter()
    repetition.filter(Document(text="a few words", id="warm"))
    started = time.process_time()
    for number, text in enumerate(texts):
        repetition.filter(Document(text=text, id=str(number)))
    json.dump({"rows": len(texts), "cpu_s": time.process_time() - started}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
