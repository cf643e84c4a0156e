"""The house's floors: imports only go down, and stages do not know each other."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGES = {"sampling", "annotation", "filtering", "publishing", "validation", "sft", "grpo", "evaluation", "embedding"}
OVER_THE_STAGES = {"cli", "doctor", "pilot", "miniature"}  # they put stages to work
UPPER = {"prefect", "flows", "tasks", "prefect_ray"}


def imports(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    return set(names)


def test_the_library_and_the_schemas_never_import_a_floor_above():
    for file in [*(ROOT / "umer1_core").rglob("*.py"), *(ROOT / "schemas").rglob("*.py")]:
        assert not {name.split(".")[0] for name in imports(file)} & UPPER, file


def test_schemas_know_of_the_library_only_the_template():
    for file in (ROOT / "schemas").rglob("*.py"):
        used = {name for name in imports(file) if name.startswith("umer1_core")}
        assert used <= {"umer1_core.template"}, file


def test_stages_do_not_import_each_other():
    for stage in STAGES:
        for file in (ROOT / "umer1_core" / stage).rglob("*.py"):
            for name in imports(file):
                parts = name.split(".")
                if parts[0] == "umer1_core" and len(parts) > 1 and parts[1] in STAGES:
                    assert parts[1] == stage, f"{file} imports {name}"


def test_the_ground_floor_imports_no_stage():
    """But for the numbers of a running annotation: the status reads the journal that its engine writes."""
    found = set()
    for file in (ROOT / "umer1_core").rglob("*.py"):
        room = file.relative_to(ROOT / "umer1_core").parts[0]
        if room not in STAGES | OVER_THE_STAGES:
            stages = {name for name in imports(file) if name.startswith("umer1_core.") and name.split(".")[1] in STAGES}
            found |= {(room, name) for name in stages}
    assert found == {("status.py", "umer1_core.annotation.journal"), ("status.py", "umer1_core.annotation.ledger")}


def test_the_flows_hold_no_input_or_output():
    for name in ("line", "build_cold_start", "reannotate", "train"):
        source = (ROOT / "flows" / f"{name}.py").read_text()
        assert "open(" not in source and "read_bytes" not in source
