"""datatrove's InferenceRunner over rows of {id, text, image}, with its checkpoints and its request cache on.

Runs in .venv-peers and imports nothing of umer1: `python datatrove_runner.py ADDRESS IN_FLIGHT ROWS.jsonl WORK_FOLDER`
prints {"rows", "seconds", "cpu_s"}, from the first document to the last one durable; loading packages is not counted.
"""

import base64
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceResult, InferenceRunner
from datatrove.pipeline.writers import JsonlWriter
from loguru import logger


def main(address: str, in_flight: int, rows: Path, folder: Path) -> None:
    logger.remove()
    runner = InferenceRunner(
        rollout_fn=ask,
        config=InferenceConfig(
            server_type="endpoint",
            model_name_or_path="stand-in",
            endpoint_url=address,
            max_concurrent_generations=in_flight,
            default_generation_params={"temperature": 1.0, "top_p": 0.9, "max_tokens": 8192},
        ),
        output_writer=JsonlWriter(
            str(folder / "out"), output_filename="${rank}_chunk_${chunk_index}.jsonl", compression=None
        ),
        checkpoints_local_dir=str(folder / "checkpoints"),
    )
    started, cpu = time.perf_counter(), time.process_time()
    runner.run(documents(rows))
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    written = sum(read(path) for path in (folder / "out").iterdir())
    json.dump({"rows": written, "seconds": seconds, "cpu_s": cpu_s}, sys.stdout)


async def ask(document: Document, generate: Callable[[dict[str, Any]], Awaitable[InferenceResult]]) -> InferenceResult:
    content: list[dict[str, Any]] = [{"type": "text", "text": document.text}]
    if document.metadata["image"]:
        data = base64.b64encode(Path(document.metadata["image"]).read_bytes()).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}})
    return await generate({"messages": [{"role": "user", "content": content}]})


def documents(rows: Path) -> Iterator[Document]:
    with open(rows, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield Document(text=row["text"], id=row["id"], metadata={"image": row["image"]})


def read(path: Path) -> int:
    """Rows with a completion in an output file."""
    with open(path, encoding="utf-8") as file:
        return sum(bool(json.loads(line)["metadata"]["rollout_results"][0]["text"]) for line in file)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
